//! Pressure stall information: the share of time in which work waited for a resource.
//! Kernel: accounting/psi.rst.

use model::{Pressure, Stall};

/// `None` when the text is not a pressure file. `cpu.pressure` of kernels before 5.13 has no `full` line.
pub fn parse(text: &str) -> Option<Pressure> {
    let mut some = None;
    let mut full = None;
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ')?;
        let mut stall = Stall::default();
        for field in rest.split_ascii_whitespace() {
            let (key, value) = field.split_once('=')?;
            match key {
                "avg10" => stall.avg10_percent = value.parse().ok()?,
                "avg60" => stall.avg60_percent = value.parse().ok()?,
                "avg300" => stall.avg300_percent = value.parse().ok()?,
                "total" => stall.total_secs = value.parse::<u64>().ok()? as f64 * 1e-6,
                // A field of a later kernel.
                _ => {}
            }
        }
        match kind {
            "some" => some = Some(stall),
            "full" => full = Some(stall),
            _ => {}
        }
    }
    Some(Pressure { some: some?, full })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lines_and_their_absence() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\nfull avg10=0.10 avg60=0.00 avg300=0.00 total=7\n";
        let pressure = parse(text).unwrap();
        assert_eq!(
            pressure.some,
            Stall {
                avg10_percent: 1.5,
                avg60_percent: 0.25,
                avg300_percent: 0.0,
                total_secs: 1234.0 * 1e-6
            }
        );
        assert_eq!(pressure.full.unwrap().total_secs, 7.0 * 1e-6);
        assert!(
            parse("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
                .unwrap()
                .full
                .is_none()
        );
        for bad in [
            "",
            "full avg10=0.00 total=0\n",
            "some avg10=x total=0\n",
            "some\n",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
