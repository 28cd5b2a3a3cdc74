//! Registrars: declaration, and registration of ephemeral agents by an outbox.

mod declare;
mod deliver;
mod requests;

pub use self::declare::RegistrarDeclaration;
pub(super) use self::declare::{members, prepare, put};
pub use self::deliver::{due, run};
