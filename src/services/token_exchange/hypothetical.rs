//! Subjects of exchanges that no client requests: as a verified token would name them.

use time::{Duration, OffsetDateTime};

use crate::app::App;
use crate::domain::delegation::{self, DelegationPath};
use crate::domain::limit::Limit;
use crate::domain::principal::Principal;
use crate::domain::refusal::{Error, Refusal};
use crate::domain::subject::{TokenSource, VerifiedBy, VerifiedSubject};
use actchain_protocol::access_token::{Act, AuthenticationContext};
use actchain_protocol::jwt_time::Validity;
use actchain_protocol::token_problem::TokenProblem;
use actchain_protocol::trusted_issuer_jwt::ActorUse;

pub(super) struct HypotheticalSubjects<'a> {
    pub(super) app: &'a App,
    pub(super) now: OffsetDateTime,
}

impl HypotheticalSubjects<'_> {
    /// A token of a trusted issuer, as if just issued.
    pub(super) fn of_user(&self, who: &Principal) -> Result<VerifiedSubject, Refusal> {
        let unknown = Refusal::SubjectTokenInvalid(TokenProblem::IssuerUnknown);
        self.app.registry().issuer(&who.iss).ok_or(unknown)?;
        let source = TokenSource::TrustedIssuer {
            jti: None,
            aud: Vec::new(),
            may_act: None,
            actors: ActorUse::Refuse,
            fingerprint: [0; 32],
            verified_by: VerifiedBy::Signature,
        };
        Ok(self.subject(who.clone(), source, None))
    }

    /// A token of this server under a delegation, with its delegates as actors.
    pub(super) async fn under(&self, id: &str) -> Result<VerifiedSubject, Error> {
        let app = self.app;
        let found =
            app.read(async |connection| delegation::store::path(&app.rows, connection, id).await).await?;
        let path = found.ok_or(Refusal::NotFound)?;
        path.check(self.now).map_err(Refusal::from)?;
        let root = path.leaf().ok_or(Refusal::NotFound)?.root.clone();
        let source = TokenSource::Local { jti: String::new(), txn: String::new(), dlg: Some(id.to_owned()) };
        Ok(self.subject(root, source, actors(&path, &app.issuer)))
    }

    fn subject(&self, subject: Principal, source: TokenSource, act: Option<Act>) -> VerifiedSubject {
        let lifetime = Duration::seconds(self.app.config.tokens.max_ttl.into());
        VerifiedSubject {
            subject,
            source,
            act,
            jkt: None,
            scopes: Limit::Any,
            audiences: Limit::Any,
            details: None,
            capability: None,
            validity: Validity {
                expires_at: self.now + lifetime,
                not_before: None,
                issued_at: Some(self.now),
            },
            sid: None,
            login: AuthenticationContext::default(),
        }
    }
}

/// The delegates of a path, the last one outermost.
fn actors(path: &DelegationPath, issuer: &str) -> Option<Act> {
    path.0.iter().fold(None, |earlier, one| {
        Some(Act { sub: one.delegate.clone(), iss: issuer.to_owned(), cnf: None, act: earlier.map(Box::new) })
    })
}
