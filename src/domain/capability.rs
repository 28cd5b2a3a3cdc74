//! Capabilities: an ordered list of names, each of which includes all lower ones. An unknown name is below all of
//! them.

use crate::platform::fault::Fault;

/// The highest allowed capability, by name; `None` does not restrict.
pub type Ceiling = Option<String>;

/// The names, lowest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapabilityLevels(Vec<String>);

impl CapabilityLevels {
    /// Capabilities in ascending order.
    ///
    /// # Errors
    /// A fault that names the capability that is empty or duplicate.
    pub fn new(names: &[String]) -> Result<Self, Fault> {
        for (place, name) in names.iter().enumerate() {
            if name.is_empty() || names.iter().take(place).any(|other| other == name) {
                return Err(Fault::new(format!(
                    "delegations.capabilities: {name:?} is empty or there twice"
                )));
            }
        }
        Ok(Self(names.to_vec()))
    }

    pub fn knows(&self, name: &str) -> bool {
        self.rank(name).is_some()
    }

    /// The names, lowest first.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// The lower of two ceilings.
    pub fn intersect(&self, left: &Ceiling, right: &Ceiling) -> Ceiling {
        match (left, right) {
            (None, ceiling) | (ceiling, None) => ceiling.clone(),
            (Some(one), Some(other)) if self.rank(one) <= self.rank(other) => Some(one.clone()),
            (Some(_), Some(other)) => Some(other.clone()),
        }
    }

    /// Whether `inner` is no higher than `outer`.
    pub fn covers(&self, outer: &Ceiling, inner: &Ceiling) -> bool {
        match (outer, inner) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(outer), Some(inner)) => inner == outer || self.rank(inner) <= self.rank(outer),
        }
    }

    /// Whether a ceiling includes the capability of this name.
    pub fn reaches(&self, ceiling: &Ceiling, name: &str) -> bool {
        match (self.rank(name), ceiling) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(rank), Some(ceiling)) => self.rank(ceiling).is_some_and(|height| height >= rank),
        }
    }

    /// `None`, which is less than any rank, for an unknown name.
    fn rank(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|one| one == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn capability_levels() -> CapabilityLevels {
        CapabilityLevels::new(&["observe", "mutate", "execute", "admin"].map(str::to_owned)).unwrap()
    }

    fn ceiling() -> impl Strategy<Value = Ceiling> {
        proptest::option::of(proptest::sample::select(
            &["observe", "mutate", "execute", "admin", "unknown"][..],
        ))
        .prop_map(|name| name.map(str::to_owned))
    }

    proptest! {
        #[test]
        fn narrowing_never_climbs(left in ceiling(), right in ceiling()) {
            let both = capability_levels().intersect(&left, &right);
            prop_assert!(capability_levels().covers(&left, &both) && capability_levels().covers(&right, &both));
            for name in capability_levels().names() {
                let reached = capability_levels().reaches(&left, name) && capability_levels().reaches(&right, name);
                prop_assert_eq!(capability_levels().reaches(&both, name), reached);
            }
        }
    }

    #[test]
    fn a_level_that_is_no_longer_configured_allows_nothing() {
        let unknown = Some("unknown".to_owned());
        assert!(capability_levels().names().iter().all(|name| !capability_levels().reaches(&unknown, name)));
        assert!(
            capability_levels().reaches(&None, "admin") && !capability_levels().reaches(&None, "unknown")
        );
        assert!(CapabilityLevels::new(&["a".into(), "a".into()]).is_err());
    }
}
