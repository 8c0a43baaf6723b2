//! The types of processes that are built in.

use std::time::Duration;

use anyhow::{Context, bail};
use dapper_core::Registry;
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use crate::pipeline::ProcessSection;

/// Their names.
pub(super) const KINDS: [&str; 5] =
    [dapper_command::KIND, dapper_container::KIND, "log", dapper_sql_process::KIND, dapper_webhook::KIND];

/// How long reaching a process's address may take.
const REACH_LIMIT: Duration = Duration::from_secs(10);

/// Adds their constructors.
pub(super) fn register(registry: &mut Registry) {
    dapper_orchestrator::register(registry);
    dapper_command::register(registry);
    dapper_container::register(registry);
    dapper_sql_process::register(registry);
    dapper_webhook::register(registry);
}

/// The key of the execution context that says what [`reach`] reaches.
pub(super) fn address_key(section: &ProcessSection) -> Option<&'static str> {
    match section.config.kind.as_str() {
        dapper_command::KIND => Some(dapper_command::COMMAND),
        dapper_container::KIND => Some(dapper_container::IMAGE),
        dapper_sql_process::KIND => Some(dapper_sql_process::STATEMENT),
        dapper_webhook::KIND => Some(dapper_webhook::URL),
        _ => None,
    }
}

/// Connects to the host of a webhook, and sends nothing; has a SQL process's statement looked at by its database; looks
/// for a command's program; asks a container's engine for its version.
pub(super) async fn reach(section: &ProcessSection) -> anyhow::Result<Option<String>> {
    match section.config.kind.as_str() {
        dapper_command::KIND => Ok(Some(dapper_command::probe(&section.config)?.display().to_string())),
        dapper_container::KIND => Ok(Some(dapper_container::probe(&section.config).await?)),
        dapper_sql_process::KIND => Ok(Some(dapper_sql_process::probe(&section.config).await?)),
        dapper_webhook::KIND => reach_webhook(section).await,
        _ => Ok(None),
    }
}

async fn reach_webhook(section: &ProcessSection) -> anyhow::Result<Option<String>> {
    let Some(url) = section.config.execution_context.get(dapper_webhook::URL) else { return Ok(None) };
    // The URL itself may hold a secret: only host and port are shown.
    let url = Url::parse(url).ok();
    let address = url.as_ref().and_then(|url| Some((url.host_str()?, url.port_or_known_default()?)));
    let Some((host, port)) = address else { bail!("its url names no host") };
    let host = host.trim_matches(['[', ']']);
    match timeout(REACH_LIMIT, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Ok(Some(format!("{host}:{port}"))),
        Ok(Err(error)) => Err(error).with_context(|| format!("cannot reach {host}:{port}")),
        Err(_) => bail!("{host}:{port} did not answer within {} s", REACH_LIMIT.as_secs()),
    }
}
