//! What `actchain doctor` and the console say about an installation.

mod finding;
mod installation;
mod issuers;
mod of_server;

pub use self::finding::DoctorFinding;
pub use self::installation::Installation;
pub use self::of_server::{DoctorReport, Examination, examine_server};
