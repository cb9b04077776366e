//! `bulkhead tls`: certificates for a cluster whose hosts have none.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand};
use model::{Fault, FaultKind};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::args::Format;
use crate::failure::{Failure, STATUS_FAILED};
use crate::output::print;

/// Make certificates for masters, agents and people
#[derive(Debug, Args)]
struct TlsArgs {
    #[command(subcommand)]
    verb: TlsVerb,
}

#[derive(Debug, Subcommand)]
enum TlsVerb {
    Init(InitArgs),
}

/// Make an authority, and a certificate of it for each holder
///
/// DIR/HOLDER is what --tls takes on that holder's host. The authority's key is not kept: whoever is to be of the cluster has
/// to be named now.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead tls init --directory /etc/bulkhead/tls master1,10.0.0.1 node1 node2 alice
  bulkhead master --ip=10.0.0.1 --tls=/etc/bulkhead/tls/master1
  bulkhead agent --master=10.0.0.1:5050 --tls=/etc/bulkhead/tls/node1
  BULKHEAD_TLS=/etc/bulkhead/tls/alice bulkhead --master 10.0.0.1:5050 agents")]
struct InitArgs {
    /// Where to make them; must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    directory: PathBuf,
    /// How long they are good
    #[arg(long, value_name = "DAYS", default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// A holder's name, and further names and addresses: a master is known by its address
    #[arg(value_name = "HOLDER[,NAME…]", required = true)]
    holders: Vec<String>,
}

const DAY_S: u64 = 86_400;

/// The date of a day since 1970, by the rules of the Gregorian calendar: eras of 400 years, years from March on.
fn civil(day: u64) -> (i32, u8, u8) {
    let shifted = day + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = match month < 10 {
        true => (era * 400 + year, month + 3),
        false => (era * 400 + year + 1, month - 9),
    };
    (year as i32, month as u8, day as u8)
}

pub fn command() -> Command {
    TlsArgs::augment_args(Command::new("tls"))
}

pub fn main(matches: &ArgMatches) -> ExitCode {
    let args = match TlsArgs::from_arg_matches(matches) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    let TlsVerb::Init(args) = args.verb;
    match init(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.tell("tls init", Format::Table);
            ExitCode::from(STATUS_FAILED)
        }
    }
}

fn init(args: &InitArgs) -> Result<(), Failure> {
    let taken = args
        .directory
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_some());
    if taken {
        let fault = Fault::invalid(
            "--directory",
            format!("{} is not empty", args.directory.display()),
        );
        return Err(fault.remedy("name one that does not exist").into());
    }
    for name in args.holders.iter().filter_map(|holder| holder.split(',').next()) {
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(Fault::invalid("HOLDER", format!("{name:?} can't be a directory's name")).into());
        }
    }
    // From yesterday, since clocks differ.
    let today = net::wall_ms() / 1000 / DAY_S;
    let date = |day: u64| {
        let (year, month, day) = civil(day);
        rcgen::date_time_ymd(year, month, day)
    };
    let (begin, end) = (date(today.saturating_sub(1)), date(today + u64::from(args.days)));
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority
        .distinguished_name
        .push(DnType::CommonName, "bulkhead cluster");
    (authority.not_before, authority.not_after) = (begin, end);
    let key = KeyPair::generate().map_err(|error| unmade(&error))?;
    let ca = authority.self_signed(&key).map_err(|error| unmade(&error))?.pem();
    let issuer = Issuer::new(authority, key);
    for holder in &args.holders {
        let names: Vec<String> = holder.split(',').map(str::to_owned).collect();
        let directory = args.directory.join(&names[0]);
        let mut params = CertificateParams::new(names.clone()).map_err(|error| unmade(&error))?;
        params
            .distinguished_name
            .push(DnType::CommonName, names[0].as_str());
        (params.not_before, params.not_after) = (begin, end);
        let key = KeyPair::generate().map_err(|error| unmade(&error))?;
        let certificate = params.signed_by(&key, &issuer).map_err(|error| unmade(&error))?;
        let files = [
            ("ca.pem", ca.as_str(), 0o644),
            ("certificate.pem", &certificate.pem(), 0o644),
            ("key.pem", &key.serialize_pem(), 0o600),
        ];
        for (name, text, mode) in files {
            write(&directory, name, text, mode)?;
        }
        print(&format!("{}\n", directory.display()))?;
    }
    Ok(())
}

fn unmade(error: &rcgen::Error) -> Failure {
    Fault::from_error(FaultKind::Failed, error).into()
}

fn write(directory: &Path, name: &str, text: &str, mode: u32) -> Result<(), Failure> {
    let path = directory.join(name);
    let put = || -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        let mut options = OpenOptions::new();
        let mut file = options.create_new(true).write(true).mode(mode).open(&path)?;
        file.write_all(text.as_bytes())
    };
    put().map_err(|error| Fault::failed(format!("write {}: {error}", path.display())).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_dates() {
        for (day, date) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_778, (2026, 11, 21)),
        ] {
            assert_eq!(civil(day), date);
        }
    }

    /// A certificate of an authority of its own, good between two years.
    fn of_years(place: &Path, issuer: &(Issuer<'_, KeyPair>, String), years: (i32, i32)) -> net::Tls {
        let directory = place.join(years.1.to_string());
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer.0).unwrap();
        for (name, text) in [
            ("ca.pem", issuer.1.as_str()),
            ("certificate.pem", &certificate.pem()),
            ("key.pem", &key.serialize_pem()),
        ] {
            write(&directory, name, text, 0o600).unwrap();
        }
        net::Tls::load(&net::TlsFiles::in_directory(&directory)).unwrap()
    }

    /// What server and client say of a handshake, the client when it has tried to read.
    async fn shake(server: &net::Tls, client: &net::Tls) -> (String, String) {
        let listener = net::TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_address();
        let accept = async {
            let stream = listener.accept().await.unwrap();
            server.accept(stream).await.map(drop)
        };
        let connect = async {
            let stream = net::TcpStream::connect(address).await.unwrap();
            let mut secured = client.connect(stream, "127.0.0.1").await?;
            futures::AsyncReadExt::read(&mut secured, &mut [0])
                .await
                .map(drop)
        };
        let told = |ended: io::Result<()>| ended.err().map(|error| error.to_string()).unwrap_or_default();
        let (accepted, connected) = futures::future::join(accept, connect).await;
        (told(accepted), told(connected))
    }

    #[test]
    fn a_certificate_of_another_time_is_told_with_its_date_on_both_sides() {
        let directory = tempfile::tempdir().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let ca = authority.self_signed(&key).unwrap().pem();
        let issuer = (Issuer::new(authority, key), ca);
        let made = |years| of_years(directory.path(), &issuer, years);
        let (good, expired, early) = (made((2001, 4000)), made((2000, 2001)), made((3000, 3001)));
        assert_eq!(good.complaint(), None);
        assert!(
            expired
                .complaint()
                .unwrap()
                .contains("until 2001-01-01 00:00 UTC")
        );
        assert!(early.complaint().unwrap().contains("from 3000-01-01 00:00 UTC"));
        net::run(net::Config::default(), async {
            for (wrong, date) in [(&expired, "until 2001-01-01"), (&early, "from 3000-01-01")] {
                for (server, client) in [(&good, wrong), (wrong, &good)] {
                    let (accepted, connected) = shake(server, client).await;
                    assert!(accepted.contains(date), "{accepted}");
                    assert!(connected.contains(date), "{connected}");
                    assert!(accepted.contains("clock") && connected.contains("clock"));
                }
            }
        })
        .unwrap();
    }

    #[test]
    fn what_is_made_lets_its_holders_talk_to_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("tls");
        let matches = command().get_matches_from([
            "tls",
            "init",
            "--directory",
            place.to_str().unwrap(),
            "m,127.0.0.1",
            "a",
        ]);
        let args = TlsArgs::from_arg_matches(&matches).unwrap();
        let TlsVerb::Init(args) = args.verb;
        init(&args).unwrap();
        for holder in ["m", "a"] {
            net::Tls::load(&net::TlsFiles::in_directory(&place.join(holder))).unwrap();
        }
        assert!(init(&args).is_err(), "nothing is overwritten");
    }
}
