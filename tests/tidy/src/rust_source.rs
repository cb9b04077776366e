//! Rust source taken apart far enough for rules about words: code, comments and string literals, each with its line.
//!
//! Not a parser. It knows comments (nested), string literals (raw, byte, C), characters and lifetimes, and which lines
//! belong to an inline `#[cfg(test)]` module.

/// One word, number or sign of code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub line: usize,
    pub in_test: bool,
}

/// One string literal, its content as written (escapes are not resolved).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Literal {
    pub text: String,
    pub line: usize,
    pub in_test: bool,
}

#[derive(Debug, Default)]
pub struct Source {
    pub tokens: Vec<Token>,
    pub literals: Vec<Literal>,
    pub lines: usize,
}

impl Source {
    pub fn parse(text: &str) -> Self {
        let mut source = Source {
            lines: text.lines().count(),
            ..Source::default()
        };
        let mut cursor = Cursor {
            bytes: text.as_bytes(),
            at: 0,
            line: 1,
        };
        while let Some(byte) = cursor.peek(0) {
            let line = cursor.line;
            match byte {
                b'/' if cursor.peek(1) == Some(b'/') => cursor.skip_while(|b| b != b'\n'),
                b'/' if cursor.peek(1) == Some(b'*') => cursor.skip_block_comment(),
                b'"' => source.literal(cursor.string(), line),
                b'\'' => cursor.skip_character_or_lifetime(),
                _ if byte == b'_' || byte.is_ascii_alphanumeric() || byte >= 0x80 => {
                    if let Some(text) = cursor.prefixed_string() {
                        source.literal(text, line);
                        continue;
                    }
                    let start = cursor.at;
                    cursor.skip_while(|b| b == b'_' || b.is_ascii_alphanumeric() || b >= 0x80);
                    let word = String::from_utf8_lossy(&cursor.bytes[start..cursor.at]).into_owned();
                    source.tokens.push(Token {
                        text: word,
                        line,
                        in_test: false,
                    });
                }
                _ => {
                    cursor.advance();
                    if !byte.is_ascii_whitespace() {
                        let text = char::from(byte).to_string();
                        source.tokens.push(Token {
                            text,
                            line,
                            in_test: false,
                        });
                    }
                }
            }
        }
        source.mark_test_modules();
        source
    }

    fn literal(&mut self, text: String, line: usize) {
        self.literals.push(Literal {
            text,
            line,
            in_test: false,
        });
    }

    /// Lines where this path stands in code outside tests: `["Instant", "now"]` finds `time::Instant::now()`.
    pub fn lines_with_path(&self, path: &[&str]) -> Vec<usize> {
        let mut wanted = Vec::new();
        for (index, word) in path.iter().enumerate() {
            if index > 0 {
                wanted.extend([":", ":"]);
            }
            wanted.push(word);
        }
        let windows = self.tokens.windows(wanted.len());
        let found = windows.filter(|window| {
            !window[0].in_test
                && window
                    .iter()
                    .zip(&wanted)
                    .all(|(token, wanted)| token.text == **wanted)
        });
        found.map(|window| window[0].line).collect()
    }

    /// Marks what lies between the braces of `#[cfg(test)] mod name { ... }`.
    fn mark_test_modules(&mut self) {
        const OPENING: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
        let mut index = 0;
        while index + OPENING.len() < self.tokens.len() {
            let opens = OPENING
                .iter()
                .zip(&self.tokens[index..])
                .all(|(wanted, token)| token.text == *wanted);
            index += 1;
            if !opens {
                continue;
            }
            let after = index + OPENING.len() - 1;
            let Some(brace) = self.tokens[after..]
                .iter()
                .position(|t| t.text == "{" || t.text == ";")
            else {
                return;
            };
            if self.tokens[after + brace].text == ";" {
                continue;
            }
            let mut depth = 0;
            let mut end = after + brace;
            for (offset, token) in self.tokens[after + brace..].iter().enumerate() {
                match token.text.as_str() {
                    "{" => depth += 1,
                    "}" => depth -= 1,
                    _ => {}
                }
                end = after + brace + offset;
                if depth == 0 {
                    break;
                }
            }
            let (first, last) = (self.tokens[index].line, self.tokens[end].line);
            self.tokens[index..=end]
                .iter_mut()
                .for_each(|token| token.in_test = true);
            for literal in &mut self.literals {
                literal.in_test |= (first..=last).contains(&literal.line);
            }
            index = end;
        }
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    line: usize,
}

impl Cursor<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn advance(&mut self) {
        if self.peek(0) == Some(b'\n') {
            self.line += 1;
        }
        self.at += 1;
    }

    fn skip_while(&mut self, keep: impl Fn(u8) -> bool) {
        while self.peek(0).is_some_and(&keep) {
            self.advance();
        }
    }

    fn skip_block_comment(&mut self) {
        let mut depth = 0;
        while let Some(byte) = self.peek(0) {
            match (byte, self.peek(1)) {
                (b'/', Some(b'*')) => depth += 1,
                (b'*', Some(b'/')) => depth -= 1,
                _ => {
                    self.advance();
                    continue;
                }
            }
            self.advance();
            self.advance();
            if depth == 0 {
                return;
            }
        }
    }

    /// At the opening quote of an ordinary string.
    fn string(&mut self) -> String {
        self.advance();
        let start = self.at;
        while let Some(byte) = self.peek(0) {
            match byte {
                b'"' => break,
                b'\\' => {
                    self.advance();
                    self.advance();
                }
                _ => self.advance(),
            }
        }
        let text = String::from_utf8_lossy(&self.bytes[start..self.at.min(self.bytes.len())]).into_owned();
        self.advance();
        text
    }

    /// `r"..."`, `br#"..."#`, `b"..."`, `c"..."`, if one begins here.
    fn prefixed_string(&mut self) -> Option<String> {
        let mut ahead = 0;
        while matches!(self.peek(ahead), Some(b'b' | b'c' | b'r')) && ahead < 2 {
            ahead += 1;
        }
        let raw = ahead > 0 && self.peek(ahead - 1) == Some(b'r');
        let mut hashes = 0;
        while raw && self.peek(ahead + hashes) == Some(b'#') {
            hashes += 1;
        }
        if ahead == 0 || self.peek(ahead + hashes) != Some(b'"') {
            return None;
        }
        (0..ahead + hashes).for_each(|_| self.advance());
        if !raw {
            return Some(self.string());
        }
        self.advance();
        let start = self.at;
        let closes = |cursor: &Self| {
            cursor.peek(0) == Some(b'"') && (1..=hashes).all(|ahead| cursor.peek(ahead) == Some(b'#'))
        };
        while self.at < self.bytes.len() && !closes(self) {
            self.advance();
        }
        let text = String::from_utf8_lossy(&self.bytes[start..self.at]).into_owned();
        (0..=hashes).for_each(|_| self.advance());
        Some(text)
    }

    /// `'a'`, `'\n'`, `'\u{1f}'` or a lifetime.
    fn skip_character_or_lifetime(&mut self) {
        self.advance();
        if self.peek(0) == Some(b'\\') {
            self.advance();
            self.advance();
            self.skip_while(|byte| byte != b'\'');
            self.advance();
            return;
        }
        // A character ends with a quote after one letter (of up to four bytes); a lifetime never does.
        let rest = &self.bytes[self.at.min(self.bytes.len())..];
        let letter = std::str::from_utf8(&rest[..rest.len().min(4)]).map_or_else(
            |cause| {
                std::str::from_utf8(&rest[..cause.valid_up_to()])
                    .ok()
                    .and_then(|text| text.chars().next())
            },
            |text| text.chars().next(),
        );
        let width = letter.map_or(1, char::len_utf8);
        if self.peek(width) == Some(b'\'') {
            (0..=width).for_each(|_| self.advance());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        Source::parse(text)
            .tokens
            .into_iter()
            .map(|token| token.text)
            .collect()
    }

    fn strings(text: &str) -> Vec<String> {
        Source::parse(text)
            .literals
            .into_iter()
            .map(|literal| literal.text)
            .collect()
    }

    #[test]
    fn comments_are_not_code() {
        assert_eq!(words("a // unsafe\nb /* x /* unsafe */ y */ c"), ["a", "b", "c"]);
    }

    #[test]
    fn strings_are_not_code_and_keep_their_line() {
        let source = Source::parse("let a =\n    \"unsafe \\\" still\";");
        assert!(source.tokens.iter().all(|token| token.text != "unsafe"));
        assert_eq!(source.literals[0].line, 2);
    }

    #[test]
    fn raw_byte_and_c_strings_are_found() {
        assert_eq!(
            strings(r####"r"a" br#"b"c"# b"d" c"e" "f""####),
            ["a", "b\"c", "d", "e", "f"]
        );
    }

    #[test]
    fn a_quote_character_opens_no_string() {
        assert_eq!(
            strings(r#"match c { '"' => "x", '\'' => "y", 'ä' => "z", _ => f::<'a>("w") }"#),
            ["x", "y", "z", "w"]
        );
    }

    #[test]
    fn words_that_begin_like_a_prefix_stay_words() {
        assert_eq!(words("bread crab r"), ["bread", "crab", "r"]);
    }

    #[test]
    fn an_inline_test_module_is_marked_to_its_last_brace() {
        let source = Source::parse(
            "fn a() {}\n#[cfg(test)]\nmod tests {\n fn b() { x(\"/proc\") }\n}\nfn c() { \"d\"; }",
        );
        let marked: Vec<_> = source
            .tokens
            .iter()
            .filter(|t| t.in_test && t.text.len() == 1)
            .collect();
        assert!(marked.iter().any(|token| token.text == "b") && marked.iter().all(|token| token.text != "c"));
        assert_eq!(
            source
                .literals
                .iter()
                .map(|literal| literal.in_test)
                .collect::<Vec<_>>(),
            [true, false]
        );
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_marks_nothing_here() {
        let source = Source::parse("#[cfg(test)]\nmod tests;\nfn a() { b }");
        assert!(source.tokens.iter().all(|token| !token.in_test));
    }

    #[test]
    fn a_path_is_found_whole() {
        let source = Source::parse("let a = Instant::now();\nlet b = Instant::from(now);");
        assert_eq!(source.lines_with_path(&["Instant", "now"]), [1]);
    }
}
