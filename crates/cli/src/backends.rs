//! The concrete inputs, processes and lock stores that this binary has. No other module names one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use dapper_core::{Input, InputConfig, Registry};
use dapper_lock::{LeaseConfig, LockManager, LockStore, MemoryStore};
use dapper_lock_postgres::{PostgresLockOptions, PostgresLockStore, SchemaName};
use dapper_postgres::{ConnectionString, Names, PostgresError, PostgresInput};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use crate::assembly::Loaded;
use crate::etcd;
use crate::pipeline::{Backend, CONNECTION_STRING, InputSection, Pipeline, Problem, ProcessSection};

const POSTGRES: &str = "postgres";

/// The types of inputs, each with its keys besides those of every input.
pub(crate) const INPUT_TYPES: [(&str, &[&str]); 1] = [(POSTGRES, &dapper_postgres::OPTION_KEYS)];
/// The types of processes.
pub(crate) const PROCESS_TYPES: [&str; 2] = ["log", dapper_webhook::KIND];

/// How long reaching a process's address may take.
const REACH_LIMIT: Duration = Duration::from_secs(10);

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
    lease_config(loaded)?;
    match (lock.backend, &lock.connection_string) {
        (Backend::Etcd, address) => {
            etcd::validate(address.as_ref()).map_err(|(key, reason)| loaded.problem(line(key), reason))?;
        }
        (_, Some(text)) => {
            ConnectionString::parse(text)
                .map_err(|error| loaded.problem(line(CONNECTION_STRING), error.to_string()))?;
        }
        (_, None) => {}
    }
    for section in postgres_inputs(&loaded.pipeline) {
        dapper_postgres::validate(&section.config)
            .map_err(|error| loaded.input_problem(section, &error.into_input_error(&section.config.name)))?;
    }
    Ok(())
}

/// The constructors of everything there is. Connects to nothing.
pub(crate) fn registry(loaded: &Loaded) -> anyhow::Result<Registry> {
    let locks = Locks::of(loaded)?;
    let mut registry = Registry::new();
    dapper_orchestrator::register(&mut registry);
    dapper_webhook::register(&mut registry);
    registry.register_input(POSTGRES, move |config| {
        let locks = locks.clone();
        Box::pin(async move {
            let name = config.name.clone();
            let made = async { PostgresInput::new(config.clone(), locks.manager(&config)?).await };
            match made.await {
                Ok(input) => Ok(Arc::new(input) as Arc<dyn Input>),
                Err(error) => Err(error.into_input_error(&name)),
            }
        })
    });
    Ok(registry)
}

/// Tries the addresses of the lock store and of all inputs and processes. Changes nothing.
pub(crate) async fn reach(loaded: &Loaded) -> anyhow::Result<Vec<Reached>> {
    let mut reached: Vec<Reached> = reach_lock(loaded).await?.into_iter().collect();
    for section in postgres_inputs(&loaded.pipeline) {
        let what = format!("input {:?}", section.config.name);
        let server = dapper_postgres::probe(&section.config)
            .await
            .with_context(|| loaded.problem(section.lines.of(Some(CONNECTION_STRING)), &what))?;
        reached.push(Reached { what, server: server.to_string() });
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

/// Tries the address of the lock store, where it has one of its own. Changes nothing.
pub(crate) async fn reach_lock(loaded: &Loaded) -> anyhow::Result<Option<Reached>> {
    let lock = &loaded.pipeline.lock;
    let Some(text) = &lock.connection_string else { return Ok(None) };
    let probe = async {
        if lock.backend == Backend::Etcd {
            return etcd::probe(Some(text)).await;
        }
        let schema = PostgresLockOptions::default().schema;
        let server = dapper_postgres::probe_schema(&ConnectionString::parse(text)?, schema.as_str()).await?;
        Ok(server.to_string())
    };
    let server =
        probe.await.with_context(|| loaded.problem(lock.lines.of(Some(CONNECTION_STRING)), "lock"))?;
    Ok(Some(Reached { what: "lock".into(), server }))
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

/// What stays when all inputs are uninstalled, if anything does.
pub(crate) fn remains(pipeline: &Pipeline) -> Option<String> {
    if pipeline.lock.backend == Backend::Etcd {
        return Some(etcd::remains());
    }
    let is_shared = pipeline.lock.backend == Backend::Postgres && pipeline.lock.connection_string.is_some();
    let schema = is_shared.then(|| PostgresLockOptions::default().schema)?;
    Some(format!(
        "lock: table {schema}.leases stays, since other pipelines may share it; \
         when none does, DROP SCHEMA {schema} CASCADE removes it"
    ))
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

/// Where the leases are.
#[derive(Clone)]
enum Locks {
    /// In one place for all inputs, which the file names. Other pipelines may share it.
    Shared(Arc<LockManager>),
    /// Each input's in its own database and schema: whoever reaches the cursor reaches the lease, and both go together.
    BesideCursors(LeaseConfig),
}

impl Locks {
    fn of(loaded: &Loaded) -> anyhow::Result<Self> {
        let config = lease_config(loaded)?;
        let lock = &loaded.pipeline.lock;
        let store: Arc<dyn LockStore> = match (lock.backend, &lock.connection_string) {
            (Backend::Memory, _) => {
                tracing::warn!(
                    "the lock backend \"memory\" excludes no other replica: run this pipeline only once"
                );
                Arc::new(MemoryStore::new())
            }
            (Backend::Etcd, address) => etcd::store(address.as_ref())?,
            (Backend::Postgres, None) => return Ok(Self::BesideCursors(config)),
            (Backend::Postgres, Some(text)) => {
                let connection = ConnectionString::parse(text)?;
                let options = PostgresLockOptions::default();
                Arc::new(PostgresLockStore::new(connection.config().clone(), options))
            }
        };
        Ok(Self::Shared(Arc::new(LockManager::new(store, config))))
    }

    fn manager(&self, input: &InputConfig) -> Result<Arc<LockManager>, PostgresError> {
        match self {
            Self::Shared(manager) => Ok(Arc::clone(manager)),
            Self::BesideCursors(config) => {
                let connection = ConnectionString::parse(&input.connection_string)?;
                let schema = SchemaName::new(Names::new(&input.name).schema)
                    .expect("the schema of an input has 1 to 63 bytes, none of them NUL");
                let options = PostgresLockOptions { schema, ..PostgresLockOptions::default() };
                let store = PostgresLockStore::new(connection.config().clone(), options);
                Ok(Arc::new(LockManager::new(Arc::new(store), *config)))
            }
        }
    }
}

fn postgres_inputs(pipeline: &Pipeline) -> impl Iterator<Item = &InputSection> {
    pipeline.inputs.iter().filter(|section| section.config.kind == POSTGRES)
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
