//! The reasons that a token of another party is refused, for logs and events. The public error is the same for all of
//! them.

/// The first check that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenProblem {
    /// Not one compact JWS with a JSON object as its payload, or too long.
    Malformed,
    /// `iss` is missing, or names no trusted issuer.
    IssuerUnknown,
    /// The issuer is not declared for the token type in the request.
    TokenTypeNotAllowed,
    /// `typ`, or a claim, belongs to another kind of JWT.
    WrongKind,
    /// The issuer or client has no key with this `kid`.
    KeyUnknown,
    /// The issuer is not declared for this `alg`, or no key fits it.
    AlgorithmNotAllowed,
    /// The signature is not one of the key.
    Signature,
    /// The key that signed was removed from its client.
    KeyRemoved,
    /// A required claim is missing, or a claim has the wrong type.
    Claims,
    /// The token is bound to a key in a way that this server cannot check (RFC 7800 §3).
    Binding,
    /// `aud` names other parties.
    Audience,
    /// The claim that names the tenant is missing, or differs from the tenant in `iss`.
    Tenant,
    /// The issuer gave the token to a client that is not accepted.
    ClientNotAccepted,
    /// `exp` is not in the future.
    Expired,
    /// `nbf` or `iat` is in the future.
    NotYetValid,
    /// `exp` is too far in the future.
    LifetimeTooLong,
    /// `iss` and `sub` of an assertion differ, or name another client than the request.
    ClientMismatch,
    /// A token of this server that is not in the database.
    NotRecorded,
    /// The issuer of the root subject is not registered any more, or its subject format has changed.
    IssuerChanged,
    /// An actor token that names an actor itself.
    HasActor,
    /// The issuer says that the token is not active (RFC 7662 §2.2).
    Inactive,
}

impl TokenProblem {
    /// The stable name, in `detail.cause` of an event and in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::IssuerUnknown => "issuer_unknown",
            Self::TokenTypeNotAllowed => "token_type_not_allowed",
            Self::WrongKind => "wrong_kind",
            Self::KeyUnknown => "kid_unknown",
            Self::AlgorithmNotAllowed => "algorithm_not_allowed",
            Self::Signature => "signature",
            Self::KeyRemoved => "key_removed",
            Self::Claims => "claims",
            Self::Binding => "binding",
            Self::Audience => "audience",
            Self::Tenant => "tenant",
            Self::ClientNotAccepted => "client_not_accepted",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::LifetimeTooLong => "lifetime_too_long",
            Self::ClientMismatch => "client_mismatch",
            Self::NotRecorded => "not_recorded",
            Self::IssuerChanged => "issuer_changed",
            Self::HasActor => "has_actor",
            Self::Inactive => "inactive",
        }
    }
}
