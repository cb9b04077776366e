//! Which columns of the table fit into a width, and how wide each gets: pure.

/// A column of the table of containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Name,
    State,
    Cpu,
    CpuBar,
    CpuLimit,
    CpuHistory,
    Throttled,
    Memory,
    MemoryBar,
    MemoryPercent,
    MemoryLimit,
    MemoryPeak,
    Tasks,
    OomKills,
    LimitHits,
    IoRead,
    IoWrite,
    Disk,
    DiskLimit,
    Received,
    Sent,
    ReceivedPackets,
    SentPackets,
    NetHistory,
    Ingress,
    Egress,
    Connections,
    RoundTrip,
    Retransmits,
    Dropped,
    Delay,
    Ports,
    Uptime,
    Command,
}

/// How a column behaves: it is left out when its `rank` (0 first) finds no room, and grows from
/// `least` to `most` cells.
struct Shape {
    column: Column,
    rank: u8,
    least: u16,
    most: u16,
}

const fn shape(column: Column, rank: u8, least: u16, most: u16) -> Shape {
    Shape {
        column,
        rank,
        least,
        most,
    }
}

/// In the order of the screen. Ranks 0 to 4 fill exactly 80 cells, a common terminal.
const USUAL: [Shape; 21] = [
    shape(Column::Name, 0, 13, 28),
    shape(Column::State, 2, 7, 9),
    shape(Column::Cpu, 0, 6, 6),
    shape(Column::CpuBar, 3, 5, 16),
    shape(Column::CpuLimit, 6, 5, 5),
    shape(Column::CpuHistory, 4, 8, 30),
    shape(Column::Throttled, 2, 4, 4),
    shape(Column::Memory, 0, 6, 6),
    shape(Column::MemoryBar, 3, 5, 16),
    shape(Column::MemoryPercent, 1, 4, 4),
    shape(Column::MemoryLimit, 5, 6, 6),
    shape(Column::MemoryPeak, 7, 6, 6),
    shape(Column::Disk, 5, 6, 6),
    shape(Column::DiskLimit, 7, 6, 6),
    shape(Column::Tasks, 1, 5, 5),
    shape(Column::OomKills, 2, 3, 3),
    shape(Column::LimitHits, 7, 5, 5),
    shape(Column::IoRead, 8, 8, 8),
    shape(Column::IoWrite, 8, 8, 8),
    shape(Column::Uptime, 1, 3, 3),
    shape(Column::Command, 9, 10, 200),
];

/// The network's. Ranks 0 to 3 fill exactly 80 cells.
const NETWORK: [Shape; 16] = [
    shape(Column::Name, 0, 13, 28),
    shape(Column::State, 5, 7, 9),
    shape(Column::Received, 0, 7, 8),
    shape(Column::Sent, 0, 7, 8),
    shape(Column::NetHistory, 3, 9, 30),
    shape(Column::ReceivedPackets, 4, 6, 7),
    shape(Column::SentPackets, 4, 6, 7),
    shape(Column::Ingress, 2, 7, 8),
    shape(Column::Egress, 2, 7, 8),
    shape(Column::Delay, 4, 7, 7),
    shape(Column::Connections, 1, 5, 5),
    shape(Column::RoundTrip, 1, 6, 7),
    shape(Column::Retransmits, 3, 5, 6),
    shape(Column::Dropped, 1, 5, 6),
    shape(Column::Ports, 6, 11, 30),
    shape(Column::Command, 9, 10, 200),
];

/// What the table tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum View {
    #[default]
    Usual,
    Network,
}

/// One blank between columns.
pub(crate) const GAP: u16 = 1;

/// The columns for `width` cells with their widths, in the order of the screen.
pub(crate) fn fit(view: View, width: u16) -> Vec<(Column, u16)> {
    let shapes: &[Shape] = match view {
        View::Usual => &USUAL,
        View::Network => &NETWORK,
    };
    let mut by_rank: Vec<&Shape> = shapes.iter().collect();
    by_rank.sort_by_key(|shape| shape.rank);
    let mut used = 0;
    let mut kept: Vec<Column> = Vec::new();
    for shape in by_rank {
        let needed = shape.least + if kept.is_empty() { 0 } else { GAP };
        if used + needed > width {
            break;
        }
        used += needed;
        kept.push(shape.column);
    }
    let mut columns: Vec<(&Shape, u16)> = shapes
        .iter()
        .filter(|s| kept.contains(&s.column))
        .map(|s| (s, s.least))
        .collect();
    let mut spare = width - used;
    // A cell to each in turn, so that bars and charts grow alike.
    while spare > 0 {
        let before = spare;
        for (shape, cells) in &mut columns {
            if spare > 0 && *cells < shape.most {
                *cells += 1;
                spare -= 1;
            }
        }
        if spare == before {
            break;
        }
    }
    columns
        .into_iter()
        .map(|(shape, cells)| (shape.column, cells))
        .collect()
}

impl Column {
    pub fn title(self) -> &'static str {
        match self {
            Self::Name => "NAME",
            Self::State => "STATE",
            Self::Cpu => "CPU",
            Self::CpuBar | Self::MemoryBar => "",
            Self::CpuLimit => "LIMIT",
            Self::CpuHistory => "HISTORY",
            Self::Throttled => "THR",
            Self::Memory => "MEM",
            Self::MemoryPercent => "MEM%",
            Self::MemoryLimit => "LIMIT",
            Self::MemoryPeak => "PEAK",
            Self::Tasks => "PIDS",
            Self::OomKills => "OOM",
            Self::LimitHits => "HITS",
            Self::IoRead => "READ/s",
            Self::IoWrite => "WRITE/s",
            Self::Disk => "DISK",
            Self::DiskLimit => "LIMIT",
            Self::Received => "IN/s",
            Self::Sent => "OUT/s",
            Self::ReceivedPackets => "PKT/s",
            Self::SentPackets => "PKT/s",
            Self::NetHistory => "HISTORY",
            Self::Ingress => "IN MAX",
            Self::Egress => "OUT MAX",
            Self::Connections => "TCP",
            Self::RoundTrip => "RTT",
            Self::Retransmits => "RTX/s",
            Self::Dropped => "DROPS",
            Self::Delay => "DELAY",
            Self::Ports => "PORTS",
            Self::Uptime => "UP",
            Self::Command => "COMMAND",
        }
    }

    pub fn is_text(self) -> bool {
        matches!(
            self,
            Self::Name
                | Self::State
                | Self::CpuBar
                | Self::CpuHistory
                | Self::NetHistory
                | Self::MemoryBar
                | Self::Ports
                | Self::Command
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(view: View, width: u16) -> u16 {
        let columns = fit(view, width);
        columns.iter().map(|(_, cells)| cells).sum::<u16>() + GAP * (columns.len() as u16).saturating_sub(1)
    }

    #[test]
    fn never_wider_than_the_screen() {
        for (view, width) in (0..300).flat_map(|width| [(View::Usual, width), (View::Network, width)]) {
            assert!(total(view, width) <= width, "{view:?} {width}");
        }
    }

    #[test]
    fn eighty_cells_show_what_matters() {
        let columns = fit(View::Usual, 80);
        for wanted in [
            Column::Name,
            Column::State,
            Column::Cpu,
            Column::CpuBar,
            Column::CpuHistory,
            Column::Memory,
            Column::MemoryBar,
            Column::MemoryPercent,
            Column::Tasks,
            Column::Throttled,
            Column::OomKills,
            Column::Uptime,
        ] {
            assert!(columns.iter().any(|(column, _)| *column == wanted), "{wanted:?}");
        }
        assert_eq!(total(View::Usual, 80), 80);
        assert_eq!(total(View::Network, 80), 80);
    }

    #[test]
    fn a_wide_screen_is_used_whole_and_a_narrow_one_has_the_name() {
        assert_eq!(total(View::Usual, 200), 200);
        assert!(
            fit(View::Usual, 200)
                .iter()
                .any(|(column, _)| *column == Column::Command)
        );
        assert_eq!(fit(View::Usual, 13), [(Column::Name, 13)]);
        assert!(fit(View::Usual, 5).is_empty());
    }
}
