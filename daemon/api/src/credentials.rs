//! Mesos' files of secrets: `{"principal": …, "secret": …}` for one, `{"credentials": [ … ]}` for those whom a master lets in.

use model::Credential;
use serde::Deserialize;

/// Shorter ones can be guessed from an exchange that somebody has listened to.
const SECRET_BYTES_MIN: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("is no JSON of a credential: {0}")]
    Json(String),
    #[error("the secret of {principal:?} has {bytes} bytes; give it {SECRET_BYTES_MIN} or more, at random")]
    Short { principal: String, bytes: usize },
}

#[derive(Deserialize)]
struct One {
    principal: String,
    secret: String,
}

#[derive(Deserialize)]
struct All {
    credentials: Vec<One>,
}

/// Without the text: it holds secrets.
fn position(error: &serde_json::Error) -> CredentialError {
    CredentialError::Json(format!("line {}, column {}", error.line(), error.column()))
}

fn checked(one: One) -> Result<Credential, CredentialError> {
    if one.secret.len() < SECRET_BYTES_MIN {
        return Err(CredentialError::Short {
            principal: one.principal,
            bytes: one.secret.len(),
        });
    }
    Ok(Credential {
        principal: one.principal,
        secret: one.secret,
    })
}

pub fn one(text: &str) -> Result<Credential, CredentialError> {
    serde_json::from_str(text)
        .map_err(|error| position(&error))
        .and_then(checked)
}

pub fn all(text: &str) -> Result<Vec<Credential>, CredentialError> {
    let all: All = serde_json::from_str(text).map_err(|error| position(&error))?;
    all.credentials.into_iter().map(checked).collect()
}

pub fn to_json(credential: &Credential) -> String {
    serde_json::json!({ "principal": credential.principal, "secret": credential.secret }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mesos_own_files_are_read_and_their_secrets_not_told() {
        let text = r#"{"credentials":[{"principal":"a","secret":"12345678"}]}"#;
        let found = all(text).unwrap();
        assert_eq!(one(&to_json(&found[0])).unwrap(), found[0]);
        assert!(!format!("{found:?}").contains("12345678"));
        let error = one(r#"{"principal":"a","secret":"hunter2"}"#)
            .unwrap_err()
            .to_string();
        assert!(!error.contains("hunter2"), "{error}");
        let error = one(r#"{"secret":"hunter2hunter2""#).unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
