//! A delegation never exceeds its parent: the limits that a request may have, and those that an approval may set.

use std::collections::BTreeSet;

use crate::domain::capability::{CapabilityLevels, Ceiling};
use crate::domain::limit::Limit;
use actchain_protocol::authorization_details::Details;

/// The dimension in which limits exceed those of the parent or of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LimitDimension {
    Scopes,
    Audiences,
    Details,
    Capability,
    Uses,
    Depth,
    Expiry,
    OfflineAccess,
}

impl LimitDimension {
    pub fn member(self) -> &'static str {
        match self {
            Self::Scopes => "scopes",
            Self::Audiences => "audiences",
            Self::Details => "authorization_details",
            Self::Capability => "capability_ceiling",
            Self::Uses => "max_uses",
            Self::Depth => "max_depth",
            Self::Expiry => "expires_in",
            Self::OfflineAccess => "offline_access",
        }
    }
}

/// Limits of a delegation. An absent limit does not restrict; an empty one allows nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct DelegationLimits {
    pub scopes: Limit,
    pub audiences: Limit,
    /// `authorization_details`; `None` does not restrict.
    pub details: Option<Details>,
    pub ceiling: Ceiling,
    /// Capabilities and scopes for which each exchange needs a fresh confirmation of the delegator.
    pub ceremonies: BTreeSet<String>,
    /// The maximum number of actors in a token under this delegation.
    pub max_depth: Option<u32>,
    /// Whether the delegate may get a refresh token, to act without a token of the delegator.
    pub offline_access: bool,
}

impl DelegationLimits {
    /// No limit, and no offline access, which is only granted explicitly.
    pub fn unrestricted() -> Self {
        Self {
            scopes: Limit::Any,
            audiences: Limit::Any,
            details: None,
            ceiling: None,
            ceremonies: BTreeSet::new(),
            max_depth: None,
            offline_access: false,
        }
    }

    /// Whether these scopes or this capability need a confirmation. A name that is not a capability is a scope.
    pub fn needs_ceremony(
        &self,
        scopes: &BTreeSet<String>,
        capability: &Ceiling,
        capability_levels: &CapabilityLevels,
    ) -> bool {
        self.ceremonies
            .iter()
            .any(|name| scopes.contains(name) || capability_levels.reaches(capability, name))
    }

    /// Checks that no limit exceeds `above`. An absent limit passes: at use, the limits of the whole path apply.
    pub fn within(&self, above: &Self, capability_levels: &CapabilityLevels) -> Result<(), LimitDimension> {
        let limit = |inner: &Limit, outer: &Limit| *inner == Limit::Any || outer.covers(inner);
        let details = self.details.as_ref().zip(above.details.as_ref());
        let fits = [
            (limit(&self.scopes, &above.scopes), LimitDimension::Scopes),
            (limit(&self.audiences, &above.audiences), LimitDimension::Audiences),
            (details.is_none_or(|(inner, outer)| inner.within(outer)), LimitDimension::Details),
            (
                self.ceiling.is_none() || capability_levels.covers(&above.ceiling, &self.ceiling),
                LimitDimension::Capability,
            ),
            (
                self.max_depth.zip(above.max_depth).is_none_or(|(inner, outer)| inner <= outer),
                LimitDimension::Depth,
            ),
            (above.offline_access || !self.offline_access, LimitDimension::OfflineAccess),
        ];
        match fits.into_iter().find(|(fits, _)| !fits) {
            Some((_, wider)) => Err(wider),
            None => Ok(()),
        }
    }
}

/// Limits that an approval sets. An absent limit stays unchanged.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ApprovedTerms {
    pub scopes: Option<BTreeSet<String>>,
    pub audiences: Option<BTreeSet<String>>,
    pub details: Option<Details>,
    pub ceiling: Ceiling,
    /// Confirmations in addition to those of the request.
    pub ceremonies: BTreeSet<String>,
    pub max_uses: Option<i64>,
    pub max_depth: Option<u32>,
    /// `false` removes offline access.
    pub offline_access: Option<bool>,
}

impl ApprovedTerms {
    /// The narrowed limits and uses.
    ///
    /// # Errors
    /// The dimension in which the approval would widen the request.
    pub fn of(
        &self,
        terms: &DelegationLimits,
        max_uses: Option<i64>,
        capability_levels: &CapabilityLevels,
    ) -> Result<(DelegationLimits, Option<i64>), LimitDimension> {
        let limit = |approved: &Option<BTreeSet<String>>, old: &Limit| match approved {
            None => old.clone(),
            Some(names) => Limit::Only(names.clone()),
        };
        let narrowed = DelegationLimits {
            scopes: limit(&self.scopes, &terms.scopes),
            audiences: limit(&self.audiences, &terms.audiences),
            details: self.details.clone().or_else(|| terms.details.clone()),
            ceiling: self.ceiling.clone().or_else(|| terms.ceiling.clone()),
            ceremonies: terms.ceremonies.union(&self.ceremonies).cloned().collect(),
            max_depth: self.max_depth.or(terms.max_depth),
            offline_access: self.offline_access.unwrap_or(terms.offline_access),
        };
        let uses = self.max_uses.or(max_uses);
        narrowed.within(terms, capability_levels)?;
        if max_uses.zip(uses).is_some_and(|(most, wanted)| wanted > most) {
            return Err(LimitDimension::Uses);
        }
        Ok((narrowed, uses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn capability_levels() -> CapabilityLevels {
        CapabilityLevels::new(&["observe", "mutate", "admin"].map(str::to_owned)).unwrap()
    }

    fn names() -> impl Strategy<Value = Option<BTreeSet<String>>> {
        proptest::option::of(proptest::collection::btree_set("[a-c]", 0..3))
    }

    fn ceiling() -> impl Strategy<Value = Ceiling> {
        let names = proptest::sample::select(&["observe", "mutate", "admin"][..]);
        proptest::option::of(names).prop_map(|name| name.map(str::to_owned))
    }

    fn terms() -> impl Strategy<Value = DelegationLimits> {
        (names(), names(), ceiling(), proptest::option::of(0u32..4), proptest::bool::ANY).prop_map(
            |(scopes, audiences, ceiling, max_depth, offline_access)| DelegationLimits {
                scopes: scopes.map_or(Limit::Any, Limit::Only),
                audiences: audiences.map_or(Limit::Any, Limit::Only),
                ceiling,
                max_depth,
                offline_access,
                ..DelegationLimits::unrestricted()
            },
        )
    }

    fn narrowing() -> impl Strategy<Value = ApprovedTerms> {
        let offline = proptest::option::of(proptest::bool::ANY);
        (names(), names(), ceiling(), proptest::option::of(1i64..5), names(), offline).prop_map(
            |(scopes, audiences, ceiling, max_uses, ceremonies, offline_access)| ApprovedTerms {
                scopes,
                audiences,
                ceiling,
                max_uses,
                ceremonies: ceremonies.unwrap_or_default(),
                offline_access,
                ..ApprovedTerms::default()
            },
        )
    }

    proptest! {
        #[test]
        fn narrowing_never_widens(old in terms(), uses in proptest::option::of(1i64..5), by in narrowing()) {
            let Ok((narrowed, left)) = by.of(&old, uses, &capability_levels()) else { return Ok(()) };
            for name in ["a", "b", "c"] {
                prop_assert!(old.scopes.allows(name) || !narrowed.scopes.allows(name));
                prop_assert!(old.audiences.allows(name) || !narrowed.audiences.allows(name));
            }
            for name in capability_levels().names() {
                prop_assert!(capability_levels().reaches(&old.ceiling, name) || !capability_levels().reaches(&narrowed.ceiling, name));
            }
            prop_assert!(uses.is_none_or(|most| left.is_some_and(|left| left <= most)));
            prop_assert!(old.offline_access || !narrowed.offline_access);
            prop_assert!(old.ceremonies.is_subset(&narrowed.ceremonies), "no confirmation is dropped");
        }
    }

    #[test]
    fn each_dimension_is_compared() {
        let above = DelegationLimits {
            scopes: Limit::only(["a"]),
            audiences: Limit::only(["x"]),
            ceiling: Some("mutate".into()),
            max_depth: Some(2),
            details: Details::parse(r#"[{"type":"mail","actions":["read"]}]"#),
            ..DelegationLimits::unrestricted()
        };
        assert_eq!(
            DelegationLimits::unrestricted().within(&above, &capability_levels()),
            Ok(()),
            "what is absent is what is above"
        );
        let wider = |change: fn(&mut DelegationLimits)| {
            let mut terms = DelegationLimits::unrestricted();
            change(&mut terms);
            terms.within(&above, &capability_levels())
        };
        assert_eq!(wider(|terms| terms.scopes = Limit::only(["b"])), Err(LimitDimension::Scopes));
        assert_eq!(wider(|terms| terms.audiences = Limit::only(["y"])), Err(LimitDimension::Audiences));
        assert_eq!(
            wider(|terms| terms.details = Details::parse(r#"[{"type":"mail"}]"#)),
            Err(LimitDimension::Details)
        );
        assert_eq!(wider(|terms| terms.ceiling = Some("admin".into())), Err(LimitDimension::Capability));
        assert_eq!(wider(|terms| terms.max_depth = Some(3)), Err(LimitDimension::Depth));
        assert_eq!(wider(|terms| terms.offline_access = true), Err(LimitDimension::OfflineAccess));
        assert_eq!(wider(|terms| terms.scopes = Limit::only(["a"])), Ok(()));
    }
}
