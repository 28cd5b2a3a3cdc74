//! Issuers with many tenants: one declaration, whose `iss` has a placeholder for the tenant.

use super::Issuer;
use actchain_protocol::jose::PublicKey;
use actchain_protocol::jwt_time::SKEW;

/// The placeholder for the tenant in `iss`, as in the metadata of Microsoft Entra.
pub const TENANT: &str = "{tenantid}";
/// The claim that names the tenant in a token.
pub const TENANT_CLAIM: &str = "tid";
/// The largest number of tenants of an issuer.
pub const MAX_TENANTS: usize = 1_000;

/// Whether a text can be a tenant: `[a-z0-9-]{1,64}`. Without a colon, `{tenant}:{sub}` is read in one way only.
pub fn is_tenant(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Whether a text is an issuer with one placeholder, which is a whole segment of the path.
pub fn is_template(iss: &str) -> bool {
    let Some((before, after)) = iss.split_once(TENANT) else { return false };
    let has_host = before.strip_prefix("https://").or_else(|| before.strip_prefix("http://"));
    let in_path =
        has_host.is_some_and(|rest| rest.find('/').is_some_and(|at| at > 0)) && before.ends_with('/');
    in_path && (after.is_empty() || after.starts_with('/')) && !after.contains(['{', '}', '?', '#'])
}

/// An issuer identifier that tokens may have: of an issuer, or of one tenant of an issuer.
#[derive(Debug, Clone, Copy)]
pub struct TrustedIssuer<'a> {
    pub declared: &'a Issuer,
    /// The tenant; the claim [`TENANT_CLAIM`] of a token has to name it.
    pub tenant: Option<&'a str>,
}

impl Issuer {
    /// The issuer of a name that tokens have; `None` for another name, and for a tenant that is not declared.
    pub fn identified_by(&self, iss: &str) -> Option<TrustedIssuer<'_>> {
        let Some(tenants) = &self.tenants else {
            return (self.iss == iss).then_some(TrustedIssuer { declared: self, tenant: None });
        };
        let (before, after) = self.iss.split_once(TENANT)?;
        let tenant = tenants.get(iss.strip_prefix(before)?.strip_suffix(after)?)?;
        Some(TrustedIssuer { declared: self, tenant: Some(tenant) })
    }

    /// All values of `iss` that tokens of this issuer may have.
    pub fn identifiers(&self) -> Vec<String> {
        match &self.tenants {
            None => vec![self.iss.clone()],
            Some(tenants) => tenants.iter().map(|tenant| self.iss.replace(TENANT, tenant)).collect(),
        }
    }
}

impl TrustedIssuer<'_> {
    /// Whether a key of the issuer signs tokens of this tenant: a set for all tenants can have keys of single ones.
    pub fn signs_with(&self, key: &PublicKey) -> bool {
        match (self.tenant, key.issuer()) {
            (Some(tenant), Some(named)) => {
                named.replace(TENANT, tenant) == self.declared.iss.replace(TENANT, tenant)
            }
            (None, _) | (_, None) => true,
        }
    }

    /// The `sub` claim in tokens of this server: users of two tenants never have the same.
    pub fn subject_claim(&self, sub: &str) -> String {
        match self.tenant {
            None => self.declared.subject.claim(sub),
            Some(tenant) => self.declared.subject.claim(&format!("{tenant}:{sub}")),
        }
    }

    /// The issuer's own name of a subject for a `sub` claim of this server; `None` if the token may be older than the
    /// present form.
    pub fn original_subject<'c>(&self, claim: &'c str, issued_at: i64) -> Option<&'c str> {
        let changed = self.declared.subject_changed_at.map(|at| (at + SKEW).unix_timestamp());
        if changed.is_some_and(|at| issued_at <= at) {
            return None;
        }
        let local = self.declared.subject.original(claim)?;
        match self.tenant {
            None => Some(local),
            Some(tenant) => local.strip_prefix(tenant)?.strip_prefix(':').filter(|sub| !sub.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_placeholder_is_one_segment_of_the_path() {
        for iss in [
            "https://login.example/{tenantid}/v2.0",
            "https://login.example/{tenantid}",
            "https://login.example/{tenantid}/",
            "http://127.0.0.1:8/a/{tenantid}/b",
        ] {
            assert!(is_template(iss), "{iss}");
        }
        for iss in [
            "https://login.example/v2.0",
            "https://{tenantid}.example/",
            "https://{tenantid}/v2.0",
            "https:///{tenantid}/v2.0",
            "https://login.example/x{tenantid}/",
            "https://login.example/{tenantid}x",
            "https://login.example/{tenantid}/{tenantid}",
            "https://login.example/{tenantid}/?a",
            "https://login.example/{tenant}/v2.0",
            "{tenantid}",
        ] {
            assert!(!is_template(iss), "{iss}");
        }
        assert!(is_tenant("9188040d-6c67-4c5b-b112-36a304b66dad"));
        for tenant in ["", "A", "a:b", "a/b", "{tenantid}", "a.b", &"a".repeat(65)] {
            assert!(!is_tenant(tenant), "{tenant}");
        }
    }
}
