//! Error codes and HTTP statuses of refusals: RFC 6749 §5.2, RFC 6750 §3.1, RFC 8693 §2.2.2, RFC 9396 §5, RFC 9449 §5
//! and §7.1.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OauthErrorCode {
    /// `error` at OAuth endpoints and in challenges.
    pub error: &'static str,
    pub status: u16,
}

impl OauthErrorCode {
    const fn new(error: &'static str, status: u16) -> Self {
        Self { error, status }
    }

    pub(super) const fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }
}

pub(super) const INVALID_REQUEST: OauthErrorCode = OauthErrorCode::new("invalid_request", 400);
pub(super) const INVALID_CLIENT: OauthErrorCode = OauthErrorCode::new("invalid_client", 401);
pub(super) const INVALID_GRANT: OauthErrorCode = OauthErrorCode::new("invalid_grant", 400);
pub(super) const UNAUTHORIZED_CLIENT: OauthErrorCode = OauthErrorCode::new("unauthorized_client", 400);
pub(super) const UNSUPPORTED_GRANT_TYPE: OauthErrorCode = OauthErrorCode::new("unsupported_grant_type", 400);
pub(super) const INVALID_SCOPE: OauthErrorCode = OauthErrorCode::new("invalid_scope", 400);
pub(super) const INVALID_TARGET: OauthErrorCode = OauthErrorCode::new("invalid_target", 400);
pub(super) const INVALID_DETAILS: OauthErrorCode = OauthErrorCode::new("invalid_authorization_details", 400);
pub(super) const INVALID_DPOP_PROOF: OauthErrorCode = OauthErrorCode::new("invalid_dpop_proof", 400);
pub(super) const USE_DPOP_NONCE: OauthErrorCode = OauthErrorCode::new("use_dpop_nonce", 400);
/// RFC 9470 §3 at a resource; here at the token endpoint.
pub(super) const INSUFFICIENT_AUTHENTICATION: OauthErrorCode =
    OauthErrorCode::new("insufficient_user_authentication", 400);
pub(super) const UNAVAILABLE: OauthErrorCode = OauthErrorCode::new("temporarily_unavailable", 503);
pub(super) const INVALID_TOKEN: OauthErrorCode = OauthErrorCode::new("invalid_token", 401);
pub(super) const INSUFFICIENT_SCOPE: OauthErrorCode = OauthErrorCode::new("insufficient_scope", 403);
pub(super) const NOT_FOUND: OauthErrorCode = OauthErrorCode::new("not_found", 404);
pub(super) const ARCHIVED: OauthErrorCode = OauthErrorCode::new("archived", 410);
pub(super) const CONFLICT: OauthErrorCode = OauthErrorCode::new("conflict", 409);
pub(super) const SLOW_DOWN: OauthErrorCode = OauthErrorCode::new("slow_down", 429);
pub(super) const NOT_IMPLEMENTED: OauthErrorCode = OauthErrorCode::new("not_implemented", 501);
