//! The URL of a request to the agent's HTTP server.
//!
//! Rules: slashes at the end mean nothing; an unknown page is a part of what was sent; the function of a script is one
//! word, or refused.

use agent::endpoints::{Page, asked};

pub fn run(data: &[u8]) {
    let Some(text) = crate::text(data) else { return };
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    };
    let one = asked(path, query);
    assert_eq!(asked(&format!("{path}/"), query).page, one.page);
    if let Page::Unknown(rest) = one.page {
        assert!(!rest.is_empty() && path.contains(rest));
    }
    if let Some(function) = one.jsonp
        && let Ok(script) = api::mesos::jsonp(function, &serde_json::Value::Null)
    {
        assert!(script.is_ascii() && script.ends_with("(null);"));
        let name = &script[..script.len() - "(null);".len()];
        assert!(
            name.chars()
                .all(|c| c.is_ascii_alphanumeric() || "_$.".contains(c))
        );
    }
}
