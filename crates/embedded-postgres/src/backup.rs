//! Copies the cluster's whole database to or from one file, with PostgreSQL's own programs of the same version.

use std::fs::{self, File};
use std::process::Stdio;

use super::data_dir::POINTER;
use super::postmaster::last_lines;
use super::{Cluster, lock};
use crate::error::{Context, Error};

impl Cluster {
    /// Writes a consistent copy of the database into a file while other processes use it.
    pub async fn dump(&self, database: &str, file: File) -> Result<(), Error> {
        let mut command = self.postmaster.client("pg_dump");
        command.args(["--format=custom", "--no-password", "--dbname"]).arg(database).stdout(file);
        finish(command, "pg_dump").await
    }

    /// Loads such a file into an empty database, completely or not at all.
    pub async fn load(&self, database: &str, file: File) -> Result<(), Error> {
        let mut command = self.postmaster.client("pg_restore");
        command.args(["--exit-on-error", "--single-transaction", "--no-owner", "--no-password", "--dbname"]);
        command.arg(database).stdin(file).stdout(Stdio::null());
        finish(command, "pg_restore").await
    }

    /// Stops the cluster, and removes it with all its files except the master key. Only for a cluster that was just
    /// made and could not be filled.
    pub async fn destroy(mut self) -> Result<(), Error> {
        let place = &self.postmaster.place;
        let deciding = lock::start(&place.data_dir).await?;
        self.postmaster.stop(&deciding).await?;
        let what = format!("removing the database in {}", place.home.display());
        fs::remove_dir_all(&place.home).context(&what)?;
        for name in [POINTER, "postgres-start.log"] {
            match fs::remove_file(place.data_dir.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).context(&what);
                }
                _ => {}
            }
        }
        self.users = None;
        Ok(())
    }
}

async fn finish(mut command: std::process::Command, program: &str) -> Result<(), Error> {
    command.stderr(Stdio::piped());
    let child = tokio::process::Command::from(command).kill_on_drop(true).spawn();
    let child =
        child.context(&format!("starting {program}, which belongs to PostgreSQL's client programs"))?;
    let output = child.wait_with_output().await.context(&format!("running {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    let lines = last_lines(&String::from_utf8_lossy(&output.stderr));
    Err(Error::new(format!("{program} failed: {lines}")))
}
