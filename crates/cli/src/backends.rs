//! The concrete inputs, processes and lock stores that this binary has. No other module names one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use dapper_core::{Input, Registry};
use dapper_lock::{LeaseConfig, LockManager, LockStore, MemoryStore};
use dapper_lock_postgres::{PostgresLockOptions, PostgresLockStore};
use dapper_postgres::{ConnectionString, PostgresError, PostgresInput};
use secrecy::SecretString;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_postgres::NoTls;
use url::Url;

use crate::assembly::Loaded;
use crate::pipeline::{Backend, InputSection, Pipeline, Problem, ProcessSection};

const POSTGRES: &str = "postgres";

/// The types of inputs, each with its keys besides those of every input.
pub(crate) const INPUT_TYPES: [(&str, &[&str]); 1] = [(POSTGRES, &dapper_postgres::OPTION_KEYS)];
/// The types of processes.
pub(crate) const PROCESS_TYPES: [&str; 2] = ["log", dapper_webhook::KIND];

/// How long reaching one address may take.
const REACH_LIMIT: Duration = Duration::from_secs(10);
/// The oldest PostgreSQL that works, as `server_version_num` counts.
const OLDEST_POSTGRES: i32 = 130_000;

/// An address that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    /// Who needs it.
    pub(crate) what: String,
    /// What is there; no secret.
    pub(crate) server: String,
}

/// Checks what can be checked without reaching out.
pub(crate) fn validate(loaded: &Loaded) -> Result<(), Problem> {
    let lock = &loaded.pipeline.lock;
    let line = |key: &str| lock.lines.of(Some(key));
    if lock.backend == Backend::Etcd {
        let reason =
            r#"the lock backend "etcd" is not built into this binary yet; use "postgres" or "memory""#;
        return Err(loaded.problem(line("backend"), reason));
    }
    lease_config(loaded)?;
    if let Some(text) = &lock.connection_string {
        ConnectionString::parse(text)
            .map_err(|error| loaded.problem(line("connection_string"), error.to_string()))?;
    }
    for section in &loaded.pipeline.inputs {
        if section.config.kind == POSTGRES {
            ConnectionString::parse(&section.config.connection_string).map_err(|error| {
                let line = section.lines.of(Some("connection_string"));
                loaded.problem(line, format!("input {:?}: {error}", section.config.name))
            })?;
        }
    }
    Ok(())
}

/// The constructors of everything there is. Connects to nothing.
pub(crate) fn registry(loaded: &Loaded) -> anyhow::Result<Registry> {
    let locks = Arc::new(LockManager::new(lock_store(loaded)?, lease_config(loaded)?));
    let mut registry = Registry::new();
    dapper_orchestrator::register(&mut registry);
    dapper_webhook::register(&mut registry);
    registry.register_input(POSTGRES, move |config| {
        let locks = Arc::clone(&locks);
        Box::pin(async move {
            let name = config.name.clone();
            match PostgresInput::new(config, locks).await {
                Ok(input) => Ok(Arc::new(input) as Arc<dyn Input>),
                Err(error) => Err(error.into_input_error(&name)),
            }
        })
    });
    Ok(registry)
}

/// Tries the address of the lock store, and those of all inputs and processes.
pub(crate) async fn reach(loaded: &Loaded) -> anyhow::Result<Vec<Reached>> {
    let mut reached = Vec::new();
    let lock = &loaded.pipeline.lock;
    if let Some(text) = &lock.connection_string {
        let server = reach_postgres(text)
            .await
            .with_context(|| loaded.problem(lock.lines.of(Some("connection_string")), "lock"))?;
        reached.push(Reached { what: "lock".into(), server });
    }
    for section in loaded.pipeline.inputs.iter().filter(|section| section.config.kind == POSTGRES) {
        let name = &section.config.name;
        let server = reach_postgres(&section.config.connection_string).await.with_context(|| {
            loaded.problem(section.lines.of(Some("connection_string")), format!("input {name:?}"))
        })?;
        reached.push(Reached { what: format!("input {name:?}"), server });
    }
    for section in &loaded.pipeline.processes {
        let name = &section.config.name;
        if let Some(server) = reach_process(section).await.with_context(|| {
            loaded.problem(section.lines.of(Some(dapper_webhook::URL)), format!("process {name:?}"))
        })? {
            reached.push(Reached { what: format!("process {name:?}"), server });
        }
    }
    Ok(reached)
}

/// Removes what the input has installed; says what that was.
pub(crate) async fn uninstall(section: &InputSection) -> anyhow::Result<String> {
    let report = dapper_postgres::uninstall(&section.config).await?;
    let tables = match report.tables.as_slice() {
        [] => "no table had triggers".to_owned(),
        tables => format!("removed the triggers of {}", tables.join(", ")),
    };
    Ok(match report.schema {
        Some(schema) => format!("{tables}; dropped schema {schema}"),
        None => format!("{tables}; there was no schema"),
    })
}

/// Accepts the database that the input leads to as its own; says what will be delivered again.
pub(crate) async fn rebase(section: &InputSection) -> anyhow::Result<String> {
    let count = dapper_postgres::rebase(&section.config).await?;
    Ok(format!("{count} change sets will be delivered again, marked as possible repeats"))
}

fn lease_config(loaded: &Loaded) -> Result<LeaseConfig, Problem> {
    let lock = &loaded.pipeline.lock;
    LeaseConfig::from_ttl(lock.ttl)
        .map_err(|error| loaded.problem(lock.lines.of(Some("ttl")), error.to_string()))
}

fn lock_store(loaded: &Loaded) -> anyhow::Result<Arc<dyn LockStore>> {
    match loaded.pipeline.lock.backend {
        Backend::Memory => {
            tracing::warn!(
                "the lock backend \"memory\" excludes no other replica: run this pipeline only once"
            );
            Ok(Arc::new(MemoryStore::new()))
        }
        Backend::Etcd => bail!("the lock backend \"etcd\" is not built into this binary yet"),
        Backend::Postgres => {
            let Some(text) = lock_connection_string(&loaded.pipeline) else {
                bail!(
                    loaded
                        .problem(None, "[lock] needs a connection_string: no input is of type \"postgres\"")
                );
            };
            let connection = ConnectionString::parse(text)?;
            let store = PostgresLockStore::new(connection.config().clone(), PostgresLockOptions::default());
            Ok(Arc::new(store))
        }
    }
}

/// Where the leases are kept when they are kept in PostgreSQL.
fn lock_connection_string(pipeline: &Pipeline) -> Option<&SecretString> {
    let mut inputs = pipeline.inputs.iter().filter(|section| section.config.kind == POSTGRES);
    pipeline
        .lock
        .connection_string
        .as_ref()
        .or_else(|| inputs.next().map(|section| &section.config.connection_string))
}

/// Connects, and makes sure that the server can be used. Changes nothing.
async fn reach_postgres(text: &SecretString) -> Result<String, PostgresError> {
    let connection = ConnectionString::parse(text)?;
    let server = connection.to_string();
    let limit = connection.config().get_connect_timeout().copied().unwrap_or(REACH_LIMIT);
    let asked = timeout(limit, async {
        let (client, driver) = connection
            .config()
            .connect(NoTls)
            .await
            .map_err(|source| PostgresError::Connect { server: server.clone(), source })?;
        let driver = tokio::spawn(driver);
        let sql = "SELECT pg_catalog.current_setting('server_version'),
                          pg_catalog.current_setting('server_version_num')::int4, pg_catalog.pg_is_in_recovery()";
        let row = client.query_one(sql, &[]).await;
        driver.abort();
        row.map_err(|source| PostgresError::Statement { doing: "asking the server what it is", source })
    });
    let row = asked
        .await
        .map_err(|_| PostgresError::Timeout { server: server.clone(), seconds: limit.as_secs() })??;
    let version: String = row.get(0);
    if row.get::<_, i32>(1) < OLDEST_POSTGRES {
        return Err(PostgresError::TooOld { server, version });
    }
    if row.get(2) {
        return Err(PostgresError::Standby { server });
    }
    Ok(format!("PostgreSQL {version} at {server}"))
}

/// Connects to the host of a webhook, and sends nothing.
async fn reach_process(section: &ProcessSection) -> anyhow::Result<Option<String>> {
    if section.config.kind != dapper_webhook::KIND {
        return Ok(None);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{Source, read};

    #[test]
    fn the_types_that_files_may_name_are_those_that_there_are() {
        let text = "[lock]\nbackend = \"memory\"\n[[inputs]]\nname = \"i\"\ntype = \"postgres\"\n\
                    connection_string = \"host=h\"\n[[processes]]\nname = \"p\"\ntype = \"log\"\n\
                    [[links]]\ninput = \"i\"\nprocess = \"p\"\n";
        let source = Source {
            file: "pipeline.toml",
            text,
            lookup: &|_| None,
            input_types: &INPUT_TYPES,
            process_types: &PROCESS_TYPES,
        };
        let loaded = Loaded { file: "pipeline.toml".into(), pipeline: read(&source).unwrap() };
        let inputs = INPUT_TYPES.map(|(name, _)| name);
        let expected = format!("Registry {{ inputs: {inputs:?}, processes: {PROCESS_TYPES:?} }}");
        assert_eq!(format!("{:?}", registry(&loaded).unwrap()), expected);
    }
}
