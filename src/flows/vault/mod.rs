//! The vault: credentials of third parties, for living chains only.

mod callback;
mod connect;
mod connections;
mod declare;
mod disconnect;
mod discover;
mod exchange;
mod obtain;
mod providers;
mod proxy;
mod put_provider;
mod refresh;
mod rekey;
mod retrieve;
mod talk;
mod visit;

pub use self::callback::{Arrival, Said, Shown, arrive, finish};
pub use self::connect::{Begun, begin};
pub use self::connections::{Import, ListQuery, NewConnection, create, list, rotate, show};
pub use self::declare::{Declared, UNUSABLE, declare, providers};
pub use self::disconnect::{disconnect, wipe};
pub use self::exchange::{ExchangeRequest, exchange};
pub use self::providers::{ProviderDeclaration, Ready, prepare, view as provider_view};
pub use self::proxy::{Onward, Passed, call};
pub(super) use self::put_provider::{prepare_all, put as put_provider};
pub use self::rekey::{Rekeyed, rekey};
pub use self::retrieve::{Answer, Asked, Form, retrieve};
