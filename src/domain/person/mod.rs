//! Users as the audit log names them: by pseudonyms, which become unreadable when the row of the person is erased.
//! Clients of this server are no persons, and have their own names in the log.

pub mod cache;
pub mod store;

use std::collections::HashMap;
use std::sync::Arc;

use super::principal::Principal;
use crate::platform::fault::Fault;
use actchain_protocol::pseudonym::pseudonym;

/// A person with the salt that opens the pseudonym.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    pub pseudonym: String,
    pub who: Principal,
    pub salt: [u8; 32],
}

impl Person {
    /// Whether the pseudonym is that of this principal: a changed row is not proven.
    pub fn is_proven(&self) -> bool {
        pseudonym(&self.salt, &self.who.iss, &self.who.sub) == self.pseudonym
    }
}

/// The names of some principals in the log.
#[derive(Debug, Clone, Default)]
pub struct LogNames {
    /// The issuer of clients; `None` in a database that no server has used.
    own_issuer: Option<Arc<str>>,
    persons: HashMap<Principal, Arc<str>>,
    /// Number of erasures up to which the names are right.
    erasures: Option<i64>,
}

impl LogNames {
    /// The names of clients of an issuer alone.
    pub fn of_issuer(own_issuer: &str) -> Self {
        Self { own_issuer: Some(own_issuer.into()), ..Self::default() }
    }

    /// The `sub` of a principal in the log.
    ///
    /// # Errors
    /// A fault if the principal is not among those that the names were read for: the log never has a user's own name.
    pub fn sub_of<'a>(&'a self, who: &'a Principal) -> Result<&'a str, Fault> {
        if self.own_issuer.as_deref() == Some(&who.iss) {
            return Ok(&who.sub);
        }
        let named = self.persons.get(who).map(AsRef::as_ref);
        named.ok_or_else(|| Fault::new("an event names a person whose pseudonym was not read"))
    }

    /// The number of erasures up to which the names are right; `None` where none were read.
    pub fn erasures(&self) -> Option<i64> {
        self.erasures
    }

    /// Whether the names are still right after this number of erasures.
    pub fn are_right_after(&self, erasures: i64) -> bool {
        self.persons.is_empty() || self.erasures == Some(erasures)
    }
}
