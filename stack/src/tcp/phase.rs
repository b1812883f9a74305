//! The states of loss recovery (Linux's `icsk_ca_state`, comment above `tcp_time_to_recover`) and the table of what
//! leads from one to another. What is done on the way stands in `recovery.rs`, `loss.rs` and `undo.rs`.

/// State of loss recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// All is well.
    Open,
    /// Something is missing, not yet taken for lost.
    Disorder,
    /// The window is being reduced because of congestion without loss (Linux's CWR).
    Reduced,
    /// Losses are being repeated.
    Recovery,
    /// The timer has fired; everything is repeated as far as needed.
    Loss,
}

/// What changes the phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhaseEvent {
    /// Nothing is missing and no repetition is under way (`tcp_try_keep_open`).
    Whole,
    /// Something is missing or repeated, and no loss is proven (`tcp_try_keep_open`).
    Hole,
    /// Local congestion or ECN (`tcp_enter_cwr`).
    Congestion,
    /// A loss is proven (`tcp_enter_recovery`).
    LossFound,
    /// The retransmission timer has fired (`tcp_enter_loss`).
    TimedOut,
    /// The path takes smaller segments only (`tcp_simple_retransmit`).
    Oversized,
    /// All that was in flight when the phase began is acknowledged.
    Recovered,
    /// The timeout was spurious (`tcp_try_undo_loss`).
    Undone,
}

impl Phase {
    /// Linux's number in TCP_INFO.
    pub const fn number(self) -> u8 {
        match self {
            Self::Open => 0,
            Self::Disorder => 1,
            Self::Reduced => 2,
            Self::Recovery => 3,
            Self::Loss => 4,
        }
    }

    /// PRR governs the window (`tcp_in_cwnd_reduction`).
    pub const fn is_reduction(self) -> bool {
        matches!(self, Self::Reduced | Self::Recovery)
    }

    /// The table.
    pub const fn after(self, event: PhaseEvent) -> Self {
        use PhaseEvent as E;
        match (self, event) {
            (Self::Open | Self::Disorder | Self::Recovery, E::Whole)
            | (Self::Reduced | Self::Recovery | Self::Loss, E::Recovered)
            | (Self::Loss, E::Undone) => Self::Open,
            (Self::Open | Self::Disorder | Self::Recovery, E::Hole) => Self::Disorder,
            (Self::Open | Self::Disorder, E::Congestion) => Self::Reduced,
            (_, E::LossFound) => Self::Recovery,
            (_, E::TimedOut | E::Oversized) => Self::Loss,
            (stays, E::Whole | E::Hole | E::Congestion | E::Recovered | E::Undone) => stays,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use core::fmt::Write as _;

    use super::*;

    const PHASES: [Phase; 5] = [Phase::Open, Phase::Disorder, Phase::Reduced, Phase::Recovery, Phase::Loss];
    const EVENTS: [PhaseEvent; 8] = [
        PhaseEvent::Whole,
        PhaseEvent::Hole,
        PhaseEvent::Congestion,
        PhaseEvent::LossFound,
        PhaseEvent::TimedOut,
        PhaseEvent::Oversized,
        PhaseEvent::Recovered,
        PhaseEvent::Undone,
    ];

    //= test RFC 6675 §5.1 (MUST-19)
    #[test]
    fn every_phase_and_event_is_in_the_table() {
        let mut table = String::new();
        for event in EVENTS {
            let _ = write!(table, "{event:?}:");
            for phase in PHASES {
                let _ = write!(table, " {:?}", phase.after(event));
            }
            table.push('\n');
        }
        assert_eq!(
            table,
            "Whole: Open Open Reduced Open Loss
Hole: Disorder Disorder Reduced Disorder Loss
Congestion: Reduced Reduced Reduced Recovery Loss
LossFound: Recovery Recovery Recovery Recovery Recovery
TimedOut: Loss Loss Loss Loss Loss
Oversized: Loss Loss Loss Loss Loss
Recovered: Open Disorder Open Open Open
Undone: Open Disorder Reduced Recovery Open
"
        );
    }
}
