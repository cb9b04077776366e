//! Who may come in, and by what he shows it.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use model::{Credential, Fault, FaultKind};
use net::scram::Server;

use crate::config::Config;

/// Below the work directory: for agents and people of this host, whoever may read it.
const OWN: &str = "credential";
const PRINCIPAL: &str = "bulkhead";

pub struct Keys {
    pub scram: Server,
    /// Nothing has to be shown.
    pub open: bool,
    /// A certificate is enough.
    pub certificates: bool,
}

/// Where it is configured.
pub fn tls(config: &Config) -> Result<Option<net::Tls>, Fault> {
    let Some(directory) = &config.flags.tls else {
        return Ok(None);
    };
    let files = net::TlsFiles::in_directory(directory);
    let tls =
        net::Tls::load(&files).map_err(|error| Fault::from_error(FaultKind::Invalid, &error).field("--tls"));
    tls.map(|tls| {
        tls.watch_own();
        Some(tls)
    })
}

pub fn load(config: &Config) -> Result<Keys, Fault> {
    let flags = &config.flags;
    let mut credentials = vec![own(&flags.work_dir)?];
    if let Some(path) = &flags.credentials {
        let wrong = |message: String| {
            Fault::invalid("--credentials", format!("{}: {message}", path.display()))
                .remedy(r#"it holds {"credentials":[{"principal":"NAME","secret":"SECRET"}]}"#)
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        credentials.extend(api::credentials::all(&text).map_err(|error| wrong(error.to_string()))?);
    }
    let salt = random()?;
    Ok(Keys {
        scram: Server::new(&credentials, salt),
        open: flags.insecure && !flags.authenticate_agents,
        certificates: !flags.authenticate_agents,
    })
}

pub fn random() -> Result<u128, Fault> {
    net::random().map_err(|error| Fault::failed(format!("read random bytes: {error}")))
}

/// Made at the first start.
fn own(work_dir: &Path) -> Result<Credential, Fault> {
    let path = work_dir.join(OWN);
    let failed = |what: &str, error: std::io::Error| {
        Fault::failed(format!("{what} {}: {error}", path.display())).field("--work_dir")
    };
    std::fs::create_dir_all(work_dir).map_err(|error| failed("make the directory of", error))?;
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            return api::credentials::one(&text).map_err(|error| {
                let fault = Fault::new(FaultKind::Failed, format!("{}: {error}", path.display()));
                fault.remedy("remove it: another is made, for agents and people of this host to read")
            });
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed("read", error)),
    }
    let credential = Credential {
        principal: PRINCIPAL.to_owned(),
        secret: format!("{:032x}{:032x}", random()?, random()?),
    };
    let temporary = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600);
    options
        .open(&temporary)
        .and_then(|mut file| file.write_all(api::credentials::to_json(&credential).as_bytes()))
        .and_then(|()| std::fs::rename(&temporary, &path))
        .map_err(|error| failed("write", error))?;
    Ok(credential)
}
