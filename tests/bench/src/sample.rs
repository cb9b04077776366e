//! Measured moments and what is said of them.

/// Some measurements of one thing, in nanoseconds or in operations a second.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    values: Vec<f64>,
}

impl Sample {
    pub fn push(&mut self, value: f64) {
        self.values.push(value);
    }

    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// As they were pushed.
    pub fn in_order(&self) -> &[f64] {
        &self.values
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn min(&self) -> f64 {
        self.quantile(0.0)
    }

    /// The value below which that part of the measurements lies, interpolated; 0 when there are none.
    pub fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return 0.0;
        };
        let position = part * last as f64;
        let below = position.floor() as usize;
        let above = position.ceil() as usize;
        sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(values: &[f64]) -> Sample {
        Sample {
            values: values.to_vec(),
        }
    }

    #[test]
    fn median_lies_between_the_two_middle_ones() {
        assert_eq!(sample(&[4.0, 1.0, 3.0, 2.0]).median(), 2.5);
        assert_eq!(sample(&[9.0, 1.0, 5.0]).median(), 5.0);
    }

    #[test]
    fn nothing_measured_is_zero() {
        assert_eq!(sample(&[]).median(), 0.0);
    }

    #[test]
    fn p90_of_eleven_is_the_tenth() {
        let values: Vec<f64> = (0..=10).map(f64::from).collect();
        assert_eq!(sample(&values).quantile(0.9), 9.0);
    }
}
