//! Why refresh tokens cannot be used.

/// Why a refresh token cannot be used, apart from its delegation. The answer is the same for all; the log says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshTokenProblem {
    /// Malformed, or not issued by this server.
    Unknown,
    OfAnotherClient,
    /// The proof has another key.
    OtherKey,
    /// Not used for longer than `offline.max_idle`.
    Idle,
    /// Another refresh token took its place.
    Ended,
    /// The delegation does not grant offline access.
    NotGranted,
}

impl RefreshTokenProblem {
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::OfAnotherClient => "of_another_client",
            Self::OtherKey => "other_key",
            Self::Idle => "idle",
            Self::Ended => "ended",
            Self::NotGranted => "not_granted",
        }
    }
}
