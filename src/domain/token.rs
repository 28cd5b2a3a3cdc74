//! Tokens that were issued, as far as we remember them.

use time::OffsetDateTime;
use uuid::Uuid;

use super::principal::Principal;

/// A token as it is recorded. The token itself is not kept.
#[derive(Debug, Clone)]
pub struct IssuedToken {
    /// Its id.
    pub jti: Uuid,
    /// The token of ours that it was made from.
    pub parent: Option<Uuid>,
    /// The chain.
    pub txn: Uuid,
    /// Who asked for it.
    pub client_id: String,
    /// Whom it is about.
    pub subject: Principal,
    /// The delegation it comes from.
    pub delegation_id: Option<String>,
    /// The key it is bound to.
    pub jkt: Option<String>,
    /// The key it is signed with.
    pub kid: String,
    /// Its scope.
    pub scope: String,
    /// Its audiences.
    pub audience: Vec<String>,
    /// When it was issued.
    pub issued_at: OffsetDateTime,
    /// When it ends.
    pub expires_at: OffsetDateTime,
}
