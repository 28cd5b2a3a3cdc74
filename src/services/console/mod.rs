//! People in the console: how they enter, whose session it is, and how it ends.

mod enter;
mod session;

pub use self::enter::{EntryLink, enter, make_link};
pub use self::session::{NewSession, end, list, open, sign_out};
