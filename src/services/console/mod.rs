//! People in the console: how they enter and sign in, whose session it is, and how it ends.

mod callback;
mod enter;
mod find;
mod is_on;
mod live;
mod live_subject;
mod logout;
mod overview;
mod return_path;
mod session;
mod sign_in;
mod token_request;

pub use self::callback::{AuthorizationAnswer, SignInOutcome, SignInResponse, SignedIn, finish};
pub use self::enter::{EntryLink, enter, make_link};
pub use self::find::{FoundPlace, find};
pub use self::is_on::is_on;
pub use self::live::{LiveItem, LiveState, count_waiting, follow_page};
pub use self::live_subject::{LiveList, LiveLog, LiveSubject, LogRows, RowState};
pub use self::logout::{LogoutOutcome, log_out};
pub use self::overview::{ending, first_steps, operator_entered};
pub use self::session::{NewSession, SessionUse, end, end_everywhere, list, open, sign_out};
pub use self::sign_in::{BegunSignIn, SignInIssuer, SignInRequest, begin, find_issuer, issuer_of, issuers};
