//! What an agent is: words, numbers and ranges by name, as `rack:abc;level:10;keys:[1000-1500]`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Ranges, ResourceError, Scalar};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AttributeValue {
    Scalar(Scalar),
    Ranges(Ranges),
    Text(String),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attribute {
    pub name: String,
    pub value: AttributeValue,
}

/// In the order given. A name may come more than once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attributes(pub Vec<Attribute>);

impl FromStr for Attributes {
    type Err = ResourceError;

    fn from_str(text: &str) -> Result<Self, ResourceError> {
        let parts = text
            .split([';', '\n'])
            .map(str::trim)
            .filter(|part| !part.is_empty());
        parts
            .map(|part| {
                let wrong = || ResourceError::new(part, "is no attribute; write for example rack:abc");
                let (name, value) = part.split_once(':').ok_or_else(wrong)?;
                let (name, value) = (name.trim(), value.trim());
                if name.is_empty() || value.is_empty() {
                    return Err(wrong());
                }
                let value = if value.starts_with('[') {
                    AttributeValue::Ranges(value.parse()?)
                } else if let Ok(scalar) = value.parse() {
                    AttributeValue::Scalar(scalar)
                } else {
                    AttributeValue::Text(value.to_owned())
                };
                Ok(Attribute {
                    name: name.to_owned(),
                    value,
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, attribute) in self.0.iter().enumerate() {
            let separator = if at > 0 { ";" } else { "" };
            write!(f, "{separator}{}:", attribute.name)?;
            match &attribute.value {
                AttributeValue::Scalar(scalar) => write!(f, "{scalar}")?,
                AttributeValue::Ranges(ranges) => write!(f, "{ranges}")?,
                AttributeValue::Text(text) => f.write_str(text)?,
            }
        }
        Ok(())
    }
}
