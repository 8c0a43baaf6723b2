//! What a server and some readers took in between.

use anyhow::{Context, Result};

use crate::child::Child;
use crate::machine;
use crate::site::Site;

/// The processors' time of a server and of its readers, since it was made.
pub(crate) struct Meter {
    postmaster: u32,
    readers: Vec<u32>,
    server_before: f64,
    readers_before: f64,
}

/// Seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) server: f64,
    pub(crate) readers: f64,
}

impl Meter {
    pub(crate) fn start<'a>(site: &Site, readers: impl IntoIterator<Item = &'a Child>) -> Result<Self> {
        Self::of(site, readers.into_iter().filter_map(Child::pid).collect())
    }

    /// The same for readers by their process ids.
    pub(crate) fn of(site: &Site, readers: Vec<u32>) -> Result<Self> {
        let server = site.database.server();
        let postmaster = server.pid().context("the benches need a server of local binaries")?;
        let (server_before, readers_before) = (machine::server_cpu(postmaster)?, sum(&readers)?);
        Ok(Self { postmaster, readers, server_before, readers_before })
    }

    pub(crate) fn read(&self) -> Result<Taken> {
        Ok(Taken {
            server: machine::server_cpu(self.postmaster)? - self.server_before,
            readers: sum(&self.readers)? - self.readers_before,
        })
    }
}

impl Taken {
    pub(crate) fn total(self) -> f64 {
        self.server + self.readers
    }
}

fn sum(pids: &[u32]) -> Result<f64> {
    pids.iter().map(|&pid| machine::process_cpu(pid)).sum()
}
