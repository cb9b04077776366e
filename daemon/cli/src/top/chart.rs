//! Bars and charts as text: pure. They differ by shape and not only by colour.

/// A horizontal bar of `width` cells: heavy for the part in use, light for the rest, in half cells.
/// Returns both parts, so that they can be coloured.
pub(crate) fn bar(fraction: f64, width: usize) -> (String, String) {
    let fraction = if fraction.is_finite() {
        fraction.clamp(0.0, 1.0)
    } else {
        0.0
    };
    let mut halves = (fraction * width as f64 * 2.0).round() as usize;
    if fraction > 0.0 {
        // In use at all is told from idle.
        halves = halves.max(1).min(width * 2);
    }
    let mut used = "━".repeat(halves / 2);
    if halves % 2 == 1 {
        used.push('╸');
    }
    let rest = "─".repeat(width.saturating_sub(halves.div_ceil(2)));
    (used, rest)
}

/// Eighths of a cell, from empty to full.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A chart of `width` by `height` cells, the newest value at the right; lines from the top down.
/// A value of nothing still draws the base line, so that it is told from no value.
pub(crate) fn chart(
    values: impl ExactSizeIterator<Item = f64>,
    width: usize,
    height: usize,
    ceiling: f64,
) -> Vec<String> {
    let mut lines = vec![" ".repeat(width.saturating_sub(values.len())); height];
    let skip = values.len().saturating_sub(width);
    for value in values.skip(skip) {
        let fraction = if ceiling > 0.0 {
            (value / ceiling).clamp(0.0, 1.0)
        } else {
            0.0
        };
        let eighths = ((fraction * (height * 8) as f64).round() as usize).max(1);
        for (from_top, line) in lines.iter_mut().enumerate() {
            let below = (height - 1 - from_top) * 8;
            line.push(EIGHTHS[eighths.saturating_sub(below).min(8)]);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(fraction: f64, width: usize) -> String {
        let (used, rest) = bar(fraction, width);
        used + &rest
    }

    #[test]
    fn bars_are_always_as_wide_as_asked() {
        assert_eq!(whole(0.0, 4), "────");
        assert_eq!(whole(0.001, 4), "╸───");
        assert_eq!(whole(0.5, 4), "━━──");
        assert_eq!(whole(0.6, 4), "━━╸─");
        assert_eq!(whole(7.0, 4), "━━━━");
        assert_eq!(whole(f64::NAN, 4), "────");
        assert_eq!(whole(0.5, 0).chars().count(), 0);
    }

    #[test]
    fn charts_end_at_the_right_edge() {
        assert_eq!(chart([0.0, 50.0, 100.0].into_iter(), 5, 1, 100.0), ["  ▁▄█"]);
        assert_eq!(chart([0.0, 50.0, 100.0].into_iter(), 2, 2, 100.0), [" █", "██"]);
        assert_eq!(chart(std::iter::empty(), 3, 2, 100.0), ["   ", "   "]);
        assert_eq!(chart([5.0].into_iter(), 1, 1, 0.0), ["▁"]);
    }
}
