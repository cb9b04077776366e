//! SCRAM-SHA-256 (RFC 5802, RFC 7677): each side proves that it knows a secret, and nobody who listens learns it. Pure, but
//! for the nonces that are handed in.
//!
//! ```text
//! client: n,,n=PRINCIPAL,r=NONCE          server: r=NONCE+MORE,s=SALT,i=ROUNDS
//! client: c=biws,r=NONCE+MORE,p=PROOF     server: v=VERIFIER
//! ```

use std::cell::RefCell;
use std::num::NonZeroU32;
use std::rc::Rc;

use model::Credential;
use ring::{digest, hmac, pbkdf2};

/// RFC 7677 asks for so many at least; secrets of machines are long and random, so more would gain nothing.
const ROUNDS: NonZeroU32 = NonZeroU32::new(4096).unwrap();
/// What a server may make us reckon.
const ROUNDS_MAX: u32 = 100_000;
/// `n,,` in base64: no channel binding.
const BINDING: &str = "biws";
const KEY_BYTES: usize = digest::SHA256_OUTPUT_LEN;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    #[error("the message is none of SCRAM-SHA-256")]
    Malformed,
    /// Whether the principal is unknown or the secret is wrong is nobody's business.
    #[error("the principal is unknown, or the secret is wrong")]
    Refused,
    #[error("the other side does not know the secret either: it is not who it says")]
    Impostor,
}

type Key = [u8; KEY_BYTES];

fn salted(secret: &str, salt: &[u8], rounds: NonZeroU32) -> Key {
    let mut key = [0; KEY_BYTES];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        rounds,
        salt,
        secret.as_bytes(),
        &mut key,
    );
    key
}

fn mac(key: &[u8], text: &[u8]) -> Key {
    let mut out = [0; KEY_BYTES];
    out.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref());
    out
}

fn hash(bytes: &[u8]) -> Key {
    let mut out = [0; KEY_BYTES];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

fn xor(mut one: Key, other: &Key) -> Key {
    one.iter_mut().zip(other).for_each(|(a, b)| *a ^= b);
    one
}

/// `=` and `,` have a meaning of their own in the messages.
fn escaped(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

/// The value of a field like `r=…`, from the text of fields at `text`.
fn field<'a>(text: &'a str, name: &str) -> Result<&'a str, ScramError> {
    let mut fields = text.split(',').filter_map(|part| part.split_once('='));
    let found = fields.find(|(key, _)| *key == name);
    found.map(|(_, value)| value).ok_or(ScramError::Malformed)
}

/// What was reckoned of a secret, for whoever opens many connections: a server's salt is the same for all of them (RFC 5802,
/// section 5.1).
#[derive(Default)]
pub struct Remembered(RefCell<Option<(Vec<u8>, NonZeroU32, Key)>>);

impl Remembered {
    fn salted(&self, secret: &str, salt: &[u8], rounds: NonZeroU32) -> Key {
        let mut kept = self.0.borrow_mut();
        if let Some((_, _, key)) = kept.as_ref().filter(|(s, r, _)| s == salt && *r == rounds) {
            return *key;
        }
        let key = salted(secret, salt, rounds);
        *kept = Some((salt.to_vec(), rounds, key));
        key
    }
}

/// A client's half of one exchange.
pub struct Client {
    credential: Credential,
    remembered: Rc<Remembered>,
    first_bare: String,
    nonce: String,
}

/// What the server's last word has to be.
pub struct Expected(Key);

impl Client {
    pub fn new(credential: Credential, nonce: u128) -> Self {
        Self::remembering(credential, nonce, Rc::default())
    }

    /// `remembered` is of this credential.
    pub fn remembering(credential: Credential, nonce: u128, remembered: Rc<Remembered>) -> Self {
        let nonce = format!("{nonce:032x}");
        let first_bare = format!("n={},r={nonce}", escaped(&credential.principal));
        Self {
            credential,
            remembered,
            first_bare,
            nonce,
        }
    }

    pub fn first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    /// The answer to the server's challenge.
    pub fn prove(&self, challenge: &str) -> Result<(String, Expected), ScramError> {
        let nonce = field(challenge, "r")?;
        let salt = base64_decode(field(challenge, "s")?)?;
        let rounds: u32 = field(challenge, "i")?
            .parse()
            .map_err(|_| ScramError::Malformed)?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() || rounds > ROUNDS_MAX {
            return Err(ScramError::Malformed);
        }
        let rounds = NonZeroU32::new(rounds).ok_or(ScramError::Malformed)?;
        let salted = self.remembered.salted(&self.credential.secret, &salt, rounds);
        let bare = format!("c={BINDING},r={nonce}");
        let messages = format!("{},{challenge},{bare}", self.first_bare);
        let client_key = mac(&salted, b"Client Key");
        let proof = xor(client_key, &mac(&hash(&client_key), messages.as_bytes()));
        let expected = mac(&mac(&salted, b"Server Key"), messages.as_bytes());
        Ok((format!("{bare},p={}", base64(&proof)), Expected(expected)))
    }
}

impl Expected {
    /// The server knows the secret as well.
    pub fn check(&self, last: &str) -> Result<(), ScramError> {
        let verifier = base64_decode(field(last, "v")?)?;
        match verifier == self.0 {
            true => Ok(()),
            false => Err(ScramError::Impostor),
        }
    }
}

/// What a server keeps of one secret: enough to check a proof, not enough to make one.
struct Stored {
    principal: String,
    stored_key: Key,
    server_key: Key,
}

/// A server's secrets, all under one salt.
pub struct Server {
    salt: [u8; 16],
    stored: Vec<Stored>,
}

/// One exchange that has begun.
pub struct Exchange {
    first_bare: String,
    challenge: String,
    nonce: String,
    principal: String,
}

impl Server {
    pub fn new(credentials: &[Credential], salt: u128) -> Self {
        let salt = salt.to_le_bytes();
        let stored = credentials.iter().map(|credential| {
            let salted = salted(&credential.secret, &salt, ROUNDS);
            Stored {
                principal: credential.principal.clone(),
                stored_key: hash(&mac(&salted, b"Client Key")),
                server_key: mac(&salted, b"Server Key"),
            }
        });
        Self {
            salt,
            stored: stored.collect(),
        }
    }

    /// The challenge: the same form for principals that exist and others.
    pub fn challenge(&self, first: &str, nonce: u128) -> Result<(String, Exchange), ScramError> {
        let bare = first.strip_prefix("n,,").ok_or(ScramError::Malformed)?;
        let name = field(bare, "n")?.replace("=2C", ",").replace("=3D", "=");
        let theirs = field(bare, "r")?;
        if theirs.len() < 16 || theirs.len() > 256 || name.len() > 256 {
            return Err(ScramError::Malformed);
        }
        let nonce = format!("{theirs}{nonce:032x}");
        let challenge = format!("r={nonce},s={},i={ROUNDS}", base64(&self.salt));
        let exchange = Exchange {
            first_bare: bare.to_owned(),
            challenge: challenge.clone(),
            nonce,
            principal: name,
        };
        Ok((challenge, exchange))
    }

    /// The last word, and who it is.
    pub fn verify(&self, exchange: &Exchange, last: &str) -> Result<(String, String), ScramError> {
        let (bare, proof) = last.rsplit_once(",p=").ok_or(ScramError::Malformed)?;
        if field(bare, "r")? != exchange.nonce || field(bare, "c")? != BINDING {
            return Err(ScramError::Refused);
        }
        let proof: Key = base64_decode(proof)?
            .try_into()
            .map_err(|_| ScramError::Malformed)?;
        let known = self
            .stored
            .iter()
            .find(|stored| stored.principal == exchange.principal);
        let Some(known) = known else {
            return Err(ScramError::Refused);
        };
        let messages = format!("{},{},{bare}", exchange.first_bare, exchange.challenge);
        let client_key = xor(proof, &mac(&known.stored_key, messages.as_bytes()));
        // A hash of what was sent: comparing byte by byte tells nothing of the secret.
        if hash(&client_key) != known.stored_key {
            return Err(ScramError::Refused);
        }
        let verifier = mac(&known.server_key, messages.as_bytes());
        Ok((format!("v={}", base64(&verifier)), known.principal.clone()))
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .fold(0u32, |group, byte| (group << 8) | u32::from(*byte));
        let group = group << (8 * (3 - chunk.len()));
        for place in 0..4 {
            match place <= chunk.len() {
                true => text.push(char::from(ALPHABET[(group >> (18 - 6 * place)) as usize & 63])),
                false => text.push('='),
            }
        }
    }
    text
}

fn base64_decode(text: &str) -> Result<Vec<u8>, ScramError> {
    let bare = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - bare.len() > 2 || bare.len() > 4096 {
        return Err(ScramError::Malformed);
    }
    let (mut bytes, mut group, mut bits) = (Vec::new(), 0u32, 0);
    for byte in bare.bytes() {
        let value = ALPHABET.iter().position(|letter| *letter == byte);
        group = (group << 6) | value.ok_or(ScramError::Malformed)? as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((group >> bits) as u8);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(secret: &str) -> Credential {
        Credential {
            principal: "user".into(),
            secret: secret.into(),
        }
    }

    /// RFC 7677, section 3.
    #[test]
    fn the_example_of_the_standard() {
        let client = Client {
            credential: credential("pencil"),
            first_bare: "n=user,r=rOprNGfwEbeRWgbNEkqO".into(),
            nonce: "rOprNGfwEbeRWgbNEkqO".into(),
            remembered: Rc::default(),
        };
        let challenge =
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let (last, expected) = client.prove(challenge).unwrap();
        assert!(
            last.ends_with("p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="),
            "{last}"
        );
        expected
            .check("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
            .unwrap();
        assert_eq!(expected.check("v=AAAA"), Err(ScramError::Impostor));
    }

    fn exchange(client: &Credential, server: &Credential) -> Result<String, ScramError> {
        let server = Server::new(std::slice::from_ref(server), 7);
        let client = Client::new(client.clone(), 1);
        let (challenge, begun) = server.challenge(&client.first(), 2)?;
        let (last, expected) = client.prove(&challenge)?;
        let (verifier, principal) = server.verify(&begun, &last)?;
        expected.check(&verifier).map(|()| principal)
    }

    #[test]
    fn only_who_knows_the_secret_is_let_in() {
        assert_eq!(exchange(&credential("x"), &credential("x")).unwrap(), "user");
        assert_eq!(
            exchange(&credential("x"), &credential("y")),
            Err(ScramError::Refused)
        );
        let other = Credential {
            principal: "a,b=c".into(),
            secret: "x".into(),
        };
        assert_eq!(exchange(&other, &credential("x")), Err(ScramError::Refused));
        assert_eq!(exchange(&other, &other).unwrap(), "a,b=c");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let server = Server::new(&[credential("x")], 7);
        for bad in [
            "",
            "n,,",
            "n,,n=u",
            "y,,n=u,r=0123456789abcdef0",
            "n,,n=u,r=short",
        ] {
            assert!(server.challenge(bad, 1).is_err(), "{bad}");
        }
        let (_, begun) = server.challenge("n,,n=user,r=0123456789abcdef", 1).unwrap();
        for bad in ["", "p=", "c=biws,r=other,p=AAAA", "c=biws,p=AAAA"] {
            assert!(server.verify(&begun, bad).is_err(), "{bad}");
        }
        for text in ["", "Zg==", "Zm8=", "Zm9v"] {
            assert_eq!(base64(&base64_decode(text).unwrap()), text);
        }
    }
}
