//! What a netlink request can come to.

use std::io;

#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("open a netlink socket")]
    Open(#[source] io::Error),
    #[error("send a netlink request")]
    Send(#[source] io::Error),
    #[error("receive a netlink answer")]
    Receive(#[source] io::Error),
    /// The kernel's own answer.
    #[error("the kernel refuses it{}", .message.as_deref().map(|text| format!(" ({text})")).unwrap_or_default())]
    Refused {
        message: Option<String>,
        #[source]
        source: io::Error,
    },
    #[error("the kernel's answer can't be read: {0}")]
    Garbled(String),
}

impl NetlinkError {
    /// The kernel's error number, where it gave one.
    pub fn errno(&self) -> Option<crate::Errno> {
        match self {
            Self::Open(source)
            | Self::Send(source)
            | Self::Receive(source)
            | Self::Refused { source, .. } => source.raw_os_error().map(crate::Errno::from_raw),
            Self::Garbled(_) => None,
        }
    }
}
