//! What is wrong with a certificate, in words, dates and clocks: with one of the two clocks wrong a good certificate is
//! refused like an expired one, so both the date and what this host's clock says are told.

use std::io;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::{AlertDescription, CertificateError, Error};

/// Who is warned before the end has time to make another one.
const SOON: Duration = Duration::from_secs(7 * 86_400);

/// `YEAR-MONTH-DAY HH:MM UTC` of seconds since 1970. No seconds: what is told again each time that it differs is so told once a
/// minute at most.
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Eras of 400 years, whose years begin in March, so that the leap day is the last of its year.
    let since = days + 719_468;
    let (era, of_era) = (since / 146_097, since % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let (year, month) = match march < 10 {
        true => (era * 400 + year, march + 3),
        false => (era * 400 + year + 1, march - 9),
    };
    let (hour, minute) = (rest / 3600, rest / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

fn clock(time: UnixTime) -> String {
    format!("this host's clock says {}", utc(time.as_secs()))
}

/// Why a handshake failed, or a connection ended behind one. `own`: what is wrong with the own certificate.
pub(crate) fn told(error: io::Error, own: impl FnOnce() -> Option<String>) -> io::Error {
    let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) else {
        return error;
    };
    let mut text = of_peer(cause);
    if matches!(cause, Error::AlertReceived(_))
        && let Some(own) = own()
    {
        text = format!("{text}: {own}");
    }
    io::Error::new(error.kind(), text)
}

fn of_peer(error: &Error) -> String {
    use CertificateError as Wrong;
    match error {
        Error::InvalidCertificate(Wrong::ExpiredContext { time, not_after }) => format!(
            "the other side's certificate was valid until {}, and {}",
            utc(not_after.as_secs()),
            clock(*time)
        ),
        Error::InvalidCertificate(Wrong::NotValidYetContext { time, not_before }) => format!(
            "the other side's certificate is valid from {} on, and {}",
            utc(not_before.as_secs()),
            clock(*time)
        ),
        Error::InvalidCertificate(Wrong::UnknownIssuer) => {
            "the other side's certificate is of another authority than those of ours".to_owned()
        }
        Error::InvalidCertificate(wrong @ Wrong::Other(_)) => {
            format!(
                "the other side's certificate is none that an authority has signed for a host or a person ({wrong:?})"
            )
        }
        Error::InvalidCertificate(wrong) => format!("the other side's certificate is not good: {wrong}"),
        Error::NoCertificatesPresented => "the other side has shown no certificate".to_owned(),
        Error::AlertReceived(AlertDescription::CertificateExpired) => {
            "by the other side's clock our certificate has expired, or is not valid yet".to_owned()
        }
        Error::AlertReceived(AlertDescription::UnknownCA) => {
            "the other side does not know the authority of our certificate".to_owned()
        }
        Error::AlertReceived(AlertDescription::CertificateUnknown | AlertDescription::BadCertificate) => {
            "the other side does not take our certificate; why is in its log".to_owned()
        }
        Error::InvalidMessage(_) => format!("the other side does not speak TLS here ({error})"),
        other => other.to_string(),
    }
}

/// What others have against the own certificate, or will have soon, by this host's clock.
pub(crate) fn complaint(
    verifier: &dyn ClientCertVerifier,
    chain: &[CertificateDer<'static>],
) -> Option<String> {
    let (own, between) = chain.split_first()?;
    let now = Duration::from_millis(crate::wall_ms());
    let wrong_at = |at: Duration| {
        let at = UnixTime::since_unix_epoch(at);
        match verifier.verify_client_cert(own, between, at) {
            Err(Error::InvalidCertificate(wrong)) => Some(wrong),
            // What is wrong otherwise is told by the handshake that it spoils.
            _ => None,
        }
    };
    match wrong_at(now) {
        Some(CertificateError::ExpiredContext { time, not_after }) => Some(format!(
            "it was valid until {}, and {}",
            utc(not_after.as_secs()),
            clock(time)
        )),
        Some(CertificateError::NotValidYetContext { time, not_before }) => Some(format!(
            "it is valid from {} on, and {}",
            utc(not_before.as_secs()),
            clock(time)
        )),
        Some(CertificateError::UnknownIssuer) => Some(
            "it is not of the authority beside it, which is the one that others have to be of".to_owned(),
        ),
        Some(_) => None,
        None => match wrong_at(now + SOON) {
            Some(CertificateError::ExpiredContext { not_after, .. }) => {
                Some(format!("it is valid until {} only", utc(not_after.as_secs())))
            }
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_868_799, "2000-02-29 23:59 UTC"),
            (951_868_800, "2000-03-01 00:00 UTC"),
            (1_795_315_927, "2026-11-22 02:52 UTC"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }

    #[test]
    fn both_the_date_and_the_clock_are_told() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let early = Error::InvalidCertificate(CertificateError::NotValidYetContext {
            time: at(0),
            not_before: at(951_868_800),
        });
        let wrapped = io::Error::new(io::ErrorKind::InvalidData, early);
        let text = told(wrapped, || None).to_string();
        assert!(
            text.contains("from 2000-03-01") && text.contains("clock says 1970-01-01"),
            "{text}"
        );
        let alert = Error::AlertReceived(AlertDescription::CertificateExpired);
        let wrapped = io::Error::new(io::ErrorKind::InvalidData, alert);
        let error = told(wrapped, || Some("it was valid until then".to_owned()));
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(
            error.to_string().ends_with(": it was valid until then"),
            "{error}"
        );
        let other = told(io::ErrorKind::ConnectionReset.into(), || unreachable!());
        assert_eq!(other.kind(), io::ErrorKind::ConnectionReset);
    }
}
