//! Pressure stall information: the share of time in which work waited for a resource.
//! Kernel: accounting/psi.rst.

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stall {
    /// Per cent of the last 10, 60 and 300 seconds.
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total_us: u64,
}

/// `some`: at least one task waited; `full`: all did. `cpu.pressure` of old kernels has no `full` line.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pressure {
    pub some: Stall,
    pub full: Option<Stall>,
}

/// `None` when the text is not a pressure file.
pub fn parse(text: &str) -> Option<Pressure> {
    let mut some = None;
    let mut full = None;
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ')?;
        let mut stall = Stall::default();
        for field in rest.split_ascii_whitespace() {
            let (key, value) = field.split_once('=')?;
            match key {
                "avg10" => stall.avg10 = value.parse().ok()?,
                "avg60" => stall.avg60 = value.parse().ok()?,
                "avg300" => stall.avg300 = value.parse().ok()?,
                "total" => stall.total_us = value.parse().ok()?,
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
                avg10: 1.5,
                avg60: 0.25,
                avg300: 0.0,
                total_us: 1234
            }
        );
        assert_eq!(pressure.full.unwrap().total_us, 7);
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
