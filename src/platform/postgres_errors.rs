//! Errors of PostgreSQL for operators: what failed, where, and what to do.

use std::io::ErrorKind;

use sqlx::postgres::PgConnectOptions;

/// Host, port and database, or socket and database.
pub fn place(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or("(no database)");
    match options.get_socket() {
        Some(socket) => format!("{} {database}", socket.display()),
        None => format!("{}:{}/{database}", options.get_host(), options.get_port()),
    }
}

/// The message of PostgreSQL or of the system, without the driver's addition.
pub fn text(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(refusal) => refusal.message().to_owned(),
        sqlx::Error::Io(cause) => cause.to_string(),
        sqlx::Error::PoolTimedOut => "no connection in time".to_owned(),
        other => other.to_string(),
    }
}

/// What to do about an error, if known.
pub fn hint(error: &sqlx::Error) -> Option<&'static str> {
    match error {
        sqlx::Error::Io(cause) => match cause.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => {
                Some("PostgreSQL does not listen there: start it, or correct host and port in database_url")
            }
            ErrorKind::TimedOut => Some("check the host in database_url, and the firewalls on the way to it"),
            _ => Some("check the host in database_url, and that PostgreSQL runs there"),
        },
        sqlx::Error::Tls(_) => Some("check sslmode and sslrootcert in database_url"),
        sqlx::Error::PoolTimedOut => Some("check that PostgreSQL runs and has free connections"),
        sqlx::Error::Database(refusal) => match refusal.code().as_deref()? {
            "28P01" => {
                Some("correct the password in database_url, PGPASSWORD or the file that PGPASSFILE names")
            }
            "28000" => Some("create the login, or allow it in pg_hba.conf of PostgreSQL"),
            "3D000" => {
                Some("create the database first, with CREATE DATABASE as an administrator of PostgreSQL")
            }
            "42501" => Some("the login lacks a right: docs/how-to/operating.md, Logins, has what it needs"),
            "53100" => Some("the disk of PostgreSQL is full: make room on it"),
            "53200" => Some("PostgreSQL has no memory left: give it more, or lower its settings"),
            "53300" => Some("raise max_connections of PostgreSQL, or lower database_connections"),
            "57P01" | "57P02" | "57P03" => Some("PostgreSQL is starting or stopping: try again in a moment"),
            "25006" => Some("this PostgreSQL is a read-only standby: connect to the primary"),
            _ => None,
        },
        _ => None,
    }
}
