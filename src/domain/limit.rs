//! Limits: "no restriction" and "nothing allowed" are different values.

use std::collections::BTreeSet;

use crate::platform::fault::{Context as _, Fault};

/// A limit on a set of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Limit {
    Any,
    /// These names and no others; an empty set allows nothing.
    Only(BTreeSet<String>),
}

impl Limit {
    pub fn only<I: IntoIterator<Item = S>, S: Into<String>>(names: I) -> Self {
        Self::Only(names.into_iter().map(Into::into).collect())
    }

    /// The stored form: no list means no restriction.
    pub fn from_stored(list: Option<Vec<String>>) -> Self {
        list.map_or(Self::Any, Self::only)
    }

    pub fn to_stored(&self) -> Option<Vec<String>> {
        match self {
            Self::Any => None,
            Self::Only(names) => Some(names.iter().cloned().collect()),
        }
    }

    /// The names that both limits allow.
    pub fn intersect(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Any, limit) | (limit, Self::Any) => limit.clone(),
            (Self::Only(left), Self::Only(right)) => Self::Only(left.intersection(right).cloned().collect()),
        }
    }

    pub fn allows(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(names) => names.contains(name),
        }
    }

    /// Whether this limit allows all names that `other` allows.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Only(_), Self::Any) => false,
            (Self::Only(outer), Self::Only(inner)) => inner.is_subset(outer),
        }
    }
}

/// A number as stored: one that is too large for the column becomes the maximum, and stays a limit.
pub fn stored_number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Reads a stored number.
///
/// # Errors
/// A fault for a negative number: no default takes the place of a limit.
pub fn read_number(number: i32) -> Result<u32, Fault> {
    u32::try_from(number).context("a stored number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_limit() -> impl Strategy<Value = Limit> {
        proptest::option::of(proptest::collection::vec("[a-d]", 0..4)).prop_map(Limit::from_stored)
    }

    proptest! {
        #[test]
        fn narrowing_never_widens(left in any_limit(), right in any_limit(), name in "[a-e]") {
            let both = left.intersect(&right);
            prop_assert!(left.covers(&both) && right.covers(&both));
            prop_assert_eq!(both.allows(&name), left.allows(&name) && right.allows(&name));
            prop_assert_eq!(Limit::from_stored(both.to_stored()), both);
        }
    }

    #[test]
    fn a_disjoint_meet_allows_nothing_ever_after() {
        let nothing = Limit::only(["a"]).intersect(&Limit::only(["b"]));
        assert_eq!(nothing, Limit::Only(BTreeSet::new()));
        assert!(!nothing.intersect(&Limit::Any).allows("a"));
    }
}
