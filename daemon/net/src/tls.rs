//! TLS 1.3 with certificates on both sides: who is not signed by the one authority gets no byte through.
//!
//! The server's certificate has to name the host (or address) that was connected to. Of a client it is enough that the
//! authority has signed it: an authority for this purpose alone is what lets others in. Whom it names may be asked
//! ([`Secured::peer`]).
//!
//! Files that have changed are read again for the handshakes that follow; connections that stand are left alone.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::io::{AsyncRead, AsyncWrite};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};

use crate::certificate;
use crate::tcp::TcpStream;

/// For the whole handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Between two looks at whether the files have changed.
const LOOK: Duration = Duration::from_secs(10);

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
pub struct Tls(Arc<Shared>);

struct Shared {
    files: TlsFiles,
    state: Mutex<State>,
}

struct State {
    roles: Roles,
    /// The files that `roles` come from.
    stamps: Stamps,
    /// Files that could not be used, and that this was told of.
    refused: Option<Stamps>,
    looked: Instant,
    /// That something is wrong with the own certificate.
    told: bool,
}

#[derive(Clone)]
struct Roles {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    /// Judges the own certificate as others do.
    verifier: Arc<dyn ClientCertVerifier>,
    chain: Arc<[CertificateDer<'static>]>,
}

/// What differs when a file was written or replaced: inode, length, time of the last change.
type Stamps = [Option<(u64, u64, i64, i64)>; 3];

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Reads the files.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        // Before they are read: what changes meanwhile is seen as changed.
        let stamps = stamps_of(files);
        Ok(Self(Arc::new(Shared {
            files: files.clone(),
            state: Mutex::new(State {
                roles: Roles::load(files)?,
                stamps,
                refused: None,
                looked: crate::now(),
                told: false,
            }),
        })))
    }

    /// Reads the files again now. `Err`: what was read before stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let stamps = stamps_of(&self.0.files);
        let roles = Roles::load(&self.0.files)?;
        let mut state = self.locked();
        (state.roles, state.stamps, state.refused) = (roles, stamps, None);
        Ok(())
    }

    /// Says in the log what others have against the own certificate, or will have soon. For those who serve for long: from
    /// now on it is looked at with each handshake, every few seconds at most, and told once.
    pub fn watch_own(&self) {
        self.0.tell_own(&mut self.locked());
    }

    /// What others have against the own certificate now, or will have soon.
    pub fn complaint(&self) -> Option<String> {
        let roles = self.locked().roles.clone();
        certificate::complaint(&*roles.verifier, &roles.chain)
    }

    fn told(&self, error: io::Error) -> io::Error {
        certificate::told(error, || self.complaint())
    }

    /// As the files are, looked at now and then.
    fn roles(&self) -> Roles {
        let mut state = self.locked();
        let now = crate::now();
        if now - state.looked >= LOOK {
            state.looked = now;
            self.0.tell_own(&mut state);
            let stamps = stamps_of(&self.0.files);
            if stamps != state.stamps {
                self.0.take_changed(&mut state, stamps);
            }
        }
        state.roles.clone()
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client's handshake with the server of `host`: a name or an address.
    pub async fn connect(&self, stream: TcpStream, host: &str) -> io::Result<Secured> {
        let name = server_name(host)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{host}: {error}")))?;
        let secured = within(self.roles().connector.connect(name, stream)).await;
        let secured = secured.map_err(|error| match error.kind() {
            // In plain text it has been a message that makes no sense.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => io::Error::new(
                io::ErrorKind::InvalidData,
                "the other side has ended the handshake without a word: it may not speak TLS here",
            ),
            _ => self.told(error),
        })?;
        Ok(Secured::new(secured.into(), self.clone()))
    }

    /// The server's handshake. `Err`: the client is nobody that the authority knows.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Secured> {
        let secured = within(self.roles().acceptor.accept(stream)).await;
        let secured = secured.map_err(|error| self.told(error))?;
        Ok(Secured::new(secured.into(), self.clone()))
    }
}

impl Shared {
    fn tell_own(&self, state: &mut State) {
        let found = certificate::complaint(&*state.roles.verifier, &state.roles.chain);
        if found.is_some() != state.told
            && let Some(wrong) = &found
        {
            let file = self.files.certificate.display();
            tracing::warn!(
                "the own certificate, {file}: {wrong}; replace it: that is noticed within seconds"
            );
        }
        state.told = found.is_some();
    }

    fn take_changed(&self, state: &mut State, stamps: Stamps) {
        match Roles::load(&self.files) {
            Ok(roles) => {
                tracing::info!(
                    "certificates of {} have changed and are in use",
                    self.files.certificate.display()
                );
                (state.roles, state.stamps, state.refused) = (roles, stamps, None);
                self.tell_own(state);
            }
            // Whoever replaces key and certificate does one after the other: tried again at the next look, told once.
            Err(error) if state.refused != Some(stamps) => {
                tracing::warn!("changed certificates are not usable, the old ones stay in use: {error}");
                state.refused = Some(stamps);
            }
            Err(_) => {}
        }
    }
}

impl Roles {
    fn load(files: &TlsFiles) -> Result<Self, TlsError> {
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
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_single_cert(chain.clone(), key)
            .map_err(|error| unusable(&error))?;
        Ok(Self {
            connector: Arc::new(client).into(),
            acceptor: Arc::new(server).into(),
            verifier,
            chain: chain.into(),
        })
    }
}

fn stamps_of(files: &TlsFiles) -> Stamps {
    [&files.authority, &files.certificate, &files.key].map(|path| {
        let of = path.metadata().ok()?;
        Some((of.ino(), of.len(), of.mtime(), of.mtime_nsec()))
    })
}

fn server_name(host: &str) -> Result<ServerName<'static>, rustls::pki_types::InvalidDnsNameError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(bare.to_owned())
}

/// The certificate that the other side of a connection has shown.
pub struct PeerCertificate(CertificateDer<'static>);

impl PeerCertificate {
    /// Whether it is a certificate of this host name or address.
    pub fn names(&self, host: &str) -> bool {
        let (Ok(certificate), Ok(name)) = (ParsedCertificate::try_from(&self.0), server_name(host)) else {
            return false;
        };
        rustls::client::verify_server_name(&certificate, &name).is_ok()
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
    /// What the other side has against our certificate it says only behind the handshake: in our words with what we know of it.
    tls: Tls,
}

impl Secured {
    fn new(stream: TlsStream<TcpStream>, tls: Tls) -> Self {
        Self {
            stream,
            owed: None,
            tls,
        }
    }

    /// `None`: it has shown none, which a handshake that ended well does not allow.
    pub fn peer(&self) -> Option<PeerCertificate> {
        let certificates = self.stream.get_ref().1.peer_certificates()?;
        certificates.first().cloned().map(PeerCertificate)
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        Poll::Ready(read.map_err(|error| self.tls.told(error)))
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

impl Link {
    /// What the other side has shown; nothing in plain text.
    pub fn peer(&self) -> Option<PeerCertificate> {
        match self {
            Self::Plain(_) => None,
            Self::Secured(stream) => stream.peer(),
        }
    }
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
