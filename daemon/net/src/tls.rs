//! TLS 1.3 with certificates on both sides: who is not signed by the one authority gets no byte through.
//!
//! The server's certificate has to name the host (or address) that was connected to. Of a client it is enough that the
//! authority has signed it: an authority for this purpose alone is what lets others in.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::io::{AsyncRead, AsyncWrite};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};

use crate::tcp::TcpStream;

/// For the whole handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Where the certificates are, all in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Of the authority (or several) that has signed everybody who may take part.
    pub authority: PathBuf,
    /// Own certificate, and those between it and the authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl TlsFiles {
    /// As `bulkhead tls init` makes them for one host or person.
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            authority: directory.join("ca.pem"),
            certificate: directory.join("certificate.pem"),
            key: directory.join("key.pem"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {what} from {path}: {reason}; it has to be PEM")]
    File {
        what: &'static str,
        path: PathBuf,
        reason: String,
    },
    #[error(
        "the certificates of {certificate} can't be used: {reason}; do key and certificate belong together?"
    )]
    Unusable { certificate: PathBuf, reason: String },
}

/// Both roles; clones are the same configuration.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Reads the files.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("the authority's certificate", &files.authority)? {
            roots
                .add(certificate)
                .map_err(|error| wrong("the authority's certificate", &files.authority, &error))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates("the certificate", &files.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|error| wrong("the private key", &files.key, &error))?;
        let unusable = |error: &dyn std::fmt::Display| TlsError::Unusable {
            certificate: files.certificate.clone(),
            reason: error.to_string(),
        };
        // Named, since another crate of the program may bring a second provider.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| unusable(&error))?;
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| unusable(&error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|error| unusable(&error))?;
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| unusable(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| unusable(&error))?;
        Ok(Self {
            connector: Arc::new(client).into(),
            acceptor: Arc::new(server).into(),
        })
    }

    /// The client's handshake with the server of `host`: a name or an address.
    pub async fn connect(&self, stream: TcpStream, host: &str) -> io::Result<Secured> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{host}: {error}")))?;
        let secured = within(self.connector.connect(name, stream)).await?;
        Ok(Secured::new(secured.into()))
    }

    /// The server's handshake. `Err`: the client is nobody that the authority knows.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Secured> {
        let secured = within(self.acceptor.accept(stream)).await?;
        Ok(Secured::new(secured.into()))
    }
}

async fn within<T>(handshake: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake within 10 s");
    crate::timeout(HANDSHAKE, handshake)
        .await
        .unwrap_or_else(|elapsed| Err(late(elapsed)))
}

fn wrong(what: &'static str, path: &Path, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::File {
        what,
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |reason: &dyn std::fmt::Display| wrong(what, path, reason);
    let all: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|error| wrong(&error))?
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(&error))?;
    if all.is_empty() {
        return Err(wrong(&"there is no certificate in it"));
    }
    Ok(all)
}

/// A stream behind a handshake.
///
/// What a write reports as written has left for the kernel: those who write here do not flush, and encrypted bytes that
/// wait in memory would wait for ever.
pub struct Secured {
    stream: TlsStream<TcpStream>,
    /// Taken of the caller's bytes, and not yet gone.
    owed: Option<usize>,
}

impl Secured {
    fn new(stream: TlsStream<TcpStream>) -> Self {
        Self { stream, owed: None }
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = match self.owed {
            Some(taken) => taken,
            None => ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?,
        };
        self.owed = Some(taken);
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.owed = None;
        Poll::Ready(Ok(taken.min(bytes.len())))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// A connection that is secured, where that is configured.
pub enum Link {
    Plain(TcpStream),
    Secured(Box<Secured>),
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Secured(stream) => Pin::new(&mut **stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Secured(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Secured(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_close(cx),
            Self::Secured(stream) => Pin::new(&mut **stream).poll_close(cx),
        }
    }
}
