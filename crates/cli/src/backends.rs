//! The concrete inputs, processes and lock stores that there are. No other module names one.

mod processes;

use std::sync::Arc;

use anyhow::{Context, bail};
use dapper_connect::{ConnectionStringError, Environment};
use dapper_core::{Input, InputConfig, NewInputFunc, NewProcessFunc, Registry};
use dapper_lock::{LeaseConfig, LockManager, LockStore, MemoryStore};
use dapper_lock_postgres::{PostgresLockOptions, PostgresLockStore, SchemaName};
use dapper_orchestrator::Source;
use dapper_postgres::{
    ConnectionString, Finding, InstallPlan, InstallStep, Names, PostgresError, PostgresInput,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::assembly::Loaded;
use crate::etcd;
use crate::locks::{LockBackend, LockConfig, LockConfigError, ProbeError};
use crate::pipeline::{CONNECTION_STRING, InputSection, LockSection, Pipeline, Problem, ProcessSection};

/// The type of input, and the lock backend.
pub(crate) const POSTGRES: &str = "postgres";
const MEMORY: &str = "memory";

/// The keys of an input of type `postgres`, besides those of every input.
const POSTGRES_KEYS: [&str; dapper_postgres::OPTION_KEYS.len() + 1] = {
    let mut keys = [CONNECTION_STRING; dapper_postgres::OPTION_KEYS.len() + 1];
    let mut index = 0;
    while index < dapper_postgres::OPTION_KEYS.len() {
        keys[index + 1] = dapper_postgres::OPTION_KEYS[index];
        index += 1;
    }
    keys
};

/// Everything that a pipeline file can name: what is built in, and what a program adds.
#[derive(Default)]
pub(crate) struct Backends {
    /// Lock backends by name.
    pub(crate) locks: Vec<(&'static str, LockBackend)>,
    /// Types of inputs that a program adds, each with its keys.
    pub(crate) inputs: Vec<(&'static str, &'static [&'static str], NewInputFunc)>,
    /// Types of processes that a program adds.
    pub(crate) processes: Vec<(&'static str, NewProcessFunc)>,
}

/// An address that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    /// Who needs it.
    pub(crate) what: String,
    /// What is there; no secret.
    pub(crate) server: String,
}

impl Backends {
    /// What is built in.
    pub(crate) fn built_in() -> Self {
        let locks = vec![(POSTGRES, postgres_locks()), ("etcd", etcd::backend()), (MEMORY, memory_locks())];
        Self { locks, ..Self::default() }
    }

    /// The types of inputs, each with its keys besides those of every input.
    pub(crate) fn input_types(&self) -> Vec<(&'static str, &'static [&'static str])> {
        let own = self.inputs.iter().map(|(kind, keys, _)| (*kind, *keys));
        [(POSTGRES, &POSTGRES_KEYS[..]), (dapper_webhook::KIND, &dapper_webhook::INPUT_KEYS)]
            .into_iter()
            .chain(own)
            .collect()
    }

    /// The types of processes.
    pub(crate) fn process_types(&self) -> Vec<&'static str> {
        let own = self.processes.iter().map(|(kind, _)| *kind);
        processes::KINDS.into_iter().chain(own).collect()
    }

    /// The lock backends, each with its keys besides those of every lock.
    pub(crate) fn lock_backends(&self) -> Vec<(&'static str, &'static [&'static str])> {
        self.locks.iter().map(|(name, backend)| (*name, backend.keys)).collect()
    }

    /// Checks what can be checked without reaching out.
    pub(crate) fn validate(&self, loaded: &Loaded) -> Result<(), Problem> {
        let lock = &loaded.pipeline.lock;
        let made = self.lock(lock).store(&lock.config);
        made.map_err(|LockConfigError { key, reason }| {
            loaded.problem(lock.lines.of(key.as_deref()), reason)
        })?;
        lease_config(loaded)?;
        for section in postgres_inputs(&loaded.pipeline) {
            dapper_postgres::validate(&section.config).map_err(|error| {
                loaded.input_problem(section, &error.into_input_error(&section.config.name))
            })?;
            refuse_fields_without_images(loaded, section)?;
        }
        for section in loaded.pipeline.inputs.iter().filter(|it| it.config.kind == dapper_webhook::KIND) {
            dapper_webhook::validate_input(&section.config)
                .map_err(|error| loaded.input_problem(section, &error))?;
        }
        Ok(())
    }

    /// The constructors of everything there is. Connects to nothing.
    pub(crate) fn registry(&self, loaded: &Loaded) -> anyhow::Result<Registry> {
        let locks = self.leases(loaded)?;
        let mut registry = Registry::new();
        processes::register(&mut registry);
        dapper_webhook::register_input(&mut registry);
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
        for (kind, _, new) in &self.inputs {
            let new = Arc::clone(new);
            registry.register_input(*kind, move |config| new(config));
        }
        for (kind, new) in &self.processes {
            let new = Arc::clone(new);
            registry.register_process(*kind, move |config| new(config));
        }
        Ok(registry)
    }

    /// Tries the addresses of the lock store and of all inputs and processes. Changes nothing.
    pub(crate) async fn reach(&self, loaded: &Loaded) -> anyhow::Result<Vec<Reached>> {
        let mut reached: Vec<Reached> = self.reach_lock(loaded).await?.into_iter().collect();
        for section in postgres_inputs(&loaded.pipeline) {
            let what = format!("input {:?}", section.config.name);
            let server = dapper_postgres::probe(&section.config)
                .await
                .with_context(|| loaded.problem(section.lines.of(Some(CONNECTION_STRING)), &what))?;
            reached.push(Reached { what, server: server.to_string() });
        }
        for section in &loaded.pipeline.processes {
            let name = &section.config.name;
            let line = section.lines.of(processes::address_key(section));
            if let Some(server) = processes::reach(section)
                .await
                .with_context(|| loaded.problem(line, format!("process {name:?}")))?
            {
                reached.push(Reached { what: format!("process {name:?}"), server });
            }
        }
        Ok(reached)
    }

    /// Tries the address of the lock store, where it has one of its own. Changes nothing.
    pub(crate) async fn reach_lock(&self, loaded: &Loaded) -> anyhow::Result<Option<Reached>> {
        let lock = &loaded.pipeline.lock;
        let server = self.lock(lock).probe(&lock.config).await;
        let server =
            server.with_context(|| loaded.problem(lock.lines.of(Some(CONNECTION_STRING)), "lock"))?;
        Ok(server.map(|server| Reached { what: "lock".into(), server }))
    }

    /// What stays when all inputs are uninstalled, if anything does.
    pub(crate) fn remains(&self, pipeline: &Pipeline) -> Option<String> {
        self.lock(&pipeline.lock).remains(&pipeline.lock.config)
    }

    /// Where the leases are kept.
    pub(crate) fn leases(&self, loaded: &Loaded) -> anyhow::Result<Leases> {
        let (config, lock) = (lease_config(loaded)?, &loaded.pipeline.lock);
        if are_beside_cursors(lock) {
            return Ok(Leases::BesideCursors(config));
        }
        if lock.backend == MEMORY {
            tracing::warn!(
                "the lock backend \"memory\" excludes no other replica: run this pipeline only once"
            );
        }
        let store = self.lock(lock).store(&lock.config)?;
        Ok(Leases::Shared(Arc::new(LockManager::new(store, config))))
    }

    fn lock(&self, lock: &LockSection) -> &LockBackend {
        let found = self.locks.iter().find(|(name, _)| *name == lock.backend);
        &found.expect("a file that names another backend was refused").1
    }
}

/// Puts into the connection strings of PostgreSQL databases what they leave to their surroundings. From here on they say
/// everything by themselves.
pub(crate) fn complete(loaded: &mut Loaded, environment: &Environment) -> Result<(), Problem> {
    let complete = |text: &SecretString| dapper_connect::complete(text, environment);
    let file = loaded.file.clone();
    let problem = |line, what: &str, error: ConnectionStringError| Problem {
        file: file.clone(),
        line,
        reason: format!("{what}{CONNECTION_STRING} {error}"),
    };
    let Pipeline { lock, inputs, processes, .. } = &mut loaded.pipeline;
    if lock.backend == POSTGRES
        && let Some(Value::String(text)) = lock.config.options.get_mut(CONNECTION_STRING)
    {
        let whole = complete(&text.clone().into());
        let whole = whole.map_err(|error| problem(lock.lines.of(Some(CONNECTION_STRING)), "", error))?;
        *text = whole.expose_secret().to_owned();
    }
    for InputSection { config, lines } in inputs.iter_mut().filter(|it| it.config.kind == POSTGRES) {
        let what = format!("input {:?}: ", config.name);
        let whole = complete(&config.connection_string);
        config.connection_string =
            whole.map_err(|error| problem(lines.of(Some(CONNECTION_STRING)), &what, error))?;
    }
    for section in processes.iter_mut().filter(|it| it.config.kind == dapper_sql_process::KIND) {
        let what = format!("process {:?}: ", section.config.name);
        let line = section.lines.of(Some(dapper_sql_process::CONNECTION_STRING));
        let text = section.config.execution_context.get_mut(dapper_sql_process::CONNECTION_STRING);
        // That it is missing is said by the process itself.
        let Some(text) = text else { continue };
        let whole = complete(&text.clone().into()).map_err(|error| problem(line, &what, error))?;
        *text = whole.expose_secret().to_owned();
    }
    Ok(())
}

/// Whether each input keeps its leases in its own database.
pub(crate) fn are_beside_cursors(lock: &LockSection) -> bool {
    lock.backend == POSTGRES && lock.config.value(CONNECTION_STRING).is_none()
}

fn memory_locks() -> LockBackend {
    LockBackend::new(&[], |_| Ok(Arc::new(MemoryStore::new())))
}

fn postgres_locks() -> LockBackend {
    let locks = LockBackend::new(&[CONNECTION_STRING], |config| {
        // Without an address each input has a store of its own, and this one is not used.
        let connection = address(config)?.map(|text| {
            let wrong = |error: ConnectionStringError| {
                LockConfigError::new(CONNECTION_STRING, format!("{CONNECTION_STRING} {error}"))
            };
            ConnectionString::parse(&text).map_err(wrong)
        });
        Ok(match connection.transpose()? {
            Some(connection) => Arc::new(PostgresLockStore::new(connection, PostgresLockOptions::default()))
                as Arc<dyn LockStore>,
            None => Arc::new(MemoryStore::new()),
        })
    });
    locks
        .with_probe(|config| {
            let text = address(config);
            Box::pin(async move {
                let Some(text) = text? else { return Ok(None) };
                let schema = PostgresLockOptions::default().schema;
                let connection = ConnectionString::parse(&text).map_err(PostgresError::from)?;
                let server = dapper_postgres::probe_schema(&connection, schema.as_str()).await?;
                Ok::<_, ProbeError>(Some(server.to_string()))
            })
        })
        .with_remains(|config| {
            let schema = config.value(CONNECTION_STRING).map(|_| PostgresLockOptions::default().schema)?;
            Some(format!(
                "lock: table {schema}.leases stays, since other pipelines may share it; \
                 when none does, DROP SCHEMA {schema} CASCADE removes it"
            ))
        })
}

fn address(config: &LockConfig) -> Result<Option<SecretString>, LockConfigError> {
    Ok(config.text(CONNECTION_STRING)?.map(SecretString::from))
}

/// What is wrong with an input's database.
pub(crate) async fn diagnose(section: &InputSection) -> anyhow::Result<Vec<Finding>> {
    Ok(dapper_postgres::diagnose(&section.config).await?)
}

/// What installing an input did.
#[derive(Debug)]
pub(crate) struct Installed {
    pub(crate) schema: String,
    pub(crate) schema_changed: bool,
    pub(crate) changed: Vec<String>,
    pub(crate) covered: usize,
    /// What is wrong with each table that is not covered.
    pub(crate) failed: Vec<String>,
}

/// What would be installed in one database.
#[derive(Debug)]
pub(crate) struct Planned {
    /// Who needs it.
    pub(crate) what: String,
    /// Where; no secret.
    pub(crate) database: String,
    pub(crate) steps: InstallPlan,
}

/// Installs what the input needs, the table of its leases included where that is beside the cursor.
pub(crate) async fn install(loaded: &Loaded, section: &InputSection) -> anyhow::Result<Installed> {
    let report = dapper_postgres::install(&section.config).await?;
    if let Some(store) = own_store(loaded, &section.config)? {
        store.install().await.context("cannot install the table of leases")?;
    }
    Ok(Installed {
        schema: report.schema,
        schema_changed: report.schema_changed,
        changed: report.changed,
        covered: report.covered,
        failed: report.failed.into_iter().map(|error| format!("{:#}", anyhow::Error::new(error))).collect(),
    })
}

/// Installs the table of leases that all inputs share, where there is one.
pub(crate) async fn install_lock(loaded: &Loaded) -> anyhow::Result<()> {
    if let Some((_, store)) = shared_store(loaded)? {
        store.install().await.context("cannot install the table of leases")?;
    }
    Ok(())
}

/// Installs what a process needs in a database; says what that is, if anything.
pub(crate) async fn install_process(section: &ProcessSection) -> anyhow::Result<Option<String>> {
    if section.config.kind != dapper_sql_process::KIND {
        return Ok(None);
    }
    Ok(dapper_sql_process::install(&section.config).await?)
}

/// What [`install_process`] would do. Changes nothing.
pub(crate) async fn plan_process(section: &ProcessSection) -> anyhow::Result<Option<Planned>> {
    if section.config.kind != dapper_sql_process::KIND {
        return Ok(None);
    }
    let planned = dapper_sql_process::plan_install(&section.config).await?;
    Ok(planned.map(|(database, script)| {
        let statements = vec![script.trim_end().trim_end_matches(';').to_owned()];
        let step = InstallStep { what: "inbox".to_owned(), begin: "BEGIN".to_owned(), statements };
        let what = format!("process {}", section.config.name);
        Planned { what, database, steps: InstallPlan { steps: vec![step] } }
    }))
}

/// What [`install`] would do. Changes nothing.
pub(crate) async fn plan_install(loaded: &Loaded, section: &InputSection) -> anyhow::Result<Planned> {
    let mut steps = dapper_postgres::plan_install(&section.config).await?;
    if let Some(store) = own_store(loaded, &section.config)? {
        steps.steps.extend(plan_leases(&store).await?);
    }
    let connection = ConnectionString::parse(&section.config.connection_string);
    let database = connection.map_err(PostgresError::from)?.to_string();
    Ok(Planned { what: format!("input {}", section.config.name), database, steps })
}

/// What [`install_lock`] would do. Changes nothing.
pub(crate) async fn plan_lock(loaded: &Loaded) -> anyhow::Result<Option<Planned>> {
    let Some((database, store)) = shared_store(loaded)? else { return Ok(None) };
    let steps = InstallPlan { steps: plan_leases(&store).await?.into_iter().collect() };
    Ok(Some(Planned { what: "lock".to_owned(), database, steps }))
}

async fn plan_leases(store: &PostgresLockStore) -> anyhow::Result<Option<InstallStep>> {
    let statements = store.plan_install().await.context("cannot plan the table of leases")?;
    let step = InstallStep { what: "table of leases".to_owned(), begin: "BEGIN".to_owned(), statements };
    Ok((!step.statements.is_empty()).then_some(step))
}

/// The store of leases that all inputs share, where that is in a PostgreSQL database, and where it is.
fn shared_store(loaded: &Loaded) -> anyhow::Result<Option<(String, PostgresLockStore)>> {
    let lock = &loaded.pipeline.lock;
    let Some(text) = address(&lock.config)?.filter(|_| lock.backend == POSTGRES) else { return Ok(None) };
    let connection = ConnectionString::parse(&text).map_err(PostgresError::from)?;
    let server = connection.to_string();
    Ok(Some((server, PostgresLockStore::new(connection, PostgresLockOptions::default()))))
}

/// The store of the input's leases, where that is beside its cursor.
fn own_store(loaded: &Loaded, input: &InputConfig) -> Result<Option<PostgresLockStore>, PostgresError> {
    are_beside_cursors(&loaded.pipeline.lock).then(|| beside_cursor(input)).transpose()
}

/// The store of leases in the input's own database and schema.
fn beside_cursor(input: &InputConfig) -> Result<PostgresLockStore, PostgresError> {
    let connection = ConnectionString::parse(&input.connection_string)?;
    let schema = SchemaName::new(Names::new(&input.name).schema)
        .expect("the schema of an input has 1 to 63 bytes, none of them NUL");
    let options = PostgresLockOptions { schema, ..PostgresLockOptions::default() };
    Ok(PostgresLockStore::new(connection, options))
}

/// Removes what the input has installed; says what that was.
pub(crate) async fn uninstall(section: &InputSection) -> anyhow::Result<String> {
    if section.config.kind != POSTGRES {
        return Ok(format!("an input of type {} has nothing installed", section.config.kind));
    }
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
    if section.config.kind != POSTGRES {
        bail!("an input of type {} has no cursor in a database", section.config.kind);
    }
    let count = dapper_postgres::rebase(&section.config).await?;
    Ok(format!("{count} change sets will be delivered again, marked as possible repeats"))
}

/// A filter on a field that the input's events never have would let nothing through, or everything.
fn refuse_fields_without_images(loaded: &Loaded, input: &InputSection) -> Result<(), Problem> {
    let images = input.config.options.get("images").and_then(|images| images.as_str()).unwrap_or("key");
    let (name, links) = (&input.config.name, loaded.pipeline.links.iter());
    for link in links.filter(|link| link.from == *name) {
        let missing = link.filter.sources().find_map(|source| match (source, images) {
            (Source::New, "key") => Some((source, "\"new\" or \"old-and-new\"")),
            (Source::Old, "key" | "new") => Some((source, "\"old-and-new\"")),
            _ => None,
        });
        if let Some((source, needed)) = missing {
            let reason = format!(
                "the link looks at fields of {:?}, which events of input {name:?} do not have with images = {images:?}; \
                 set its images = {needed}",
                source.name()
            );
            return Err(loaded.problem(link.lines.of(Some("where")), reason));
        }
    }
    Ok(())
}

fn lease_config(loaded: &Loaded) -> Result<LeaseConfig, Problem> {
    let lock = &loaded.pipeline.lock;
    LeaseConfig::from_ttl(lock.ttl)
        .map_err(|error| loaded.problem(lock.lines.of(Some("ttl")), error.to_string()))
}

/// Where the leases are.
#[derive(Clone)]
pub(crate) enum Leases {
    /// In one place for all inputs, which the file names. Other pipelines may share it.
    Shared(Arc<LockManager>),
    /// Each input's in its own database and schema: whoever reaches the cursor reaches the lease, and both go together.
    BesideCursors(LeaseConfig),
}

impl Leases {
    /// The manager of an input's leases.
    pub(crate) fn manager(&self, input: &InputConfig) -> Result<Arc<LockManager>, PostgresError> {
        match self {
            Self::Shared(manager) => Ok(Arc::clone(manager)),
            Self::BesideCursors(config) => {
                Ok(Arc::new(LockManager::new(Arc::new(beside_cursor(input)?), *config)))
            }
        }
    }
}

/// The inputs of the type that is built in.
pub(crate) fn postgres_inputs(pipeline: &Pipeline) -> impl Iterator<Item = &InputSection> {
    pipeline.inputs.iter().filter(|section| section.config.kind == POSTGRES)
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
        let backends = Backends::built_in();
        let (inputs, processes) = (backends.input_types(), backends.process_types());
        let source = Source {
            file: "pipeline.toml",
            text,
            lookup: &|_| None,
            lock_backends: &backends.lock_backends(),
            input_types: &inputs,
            process_types: &processes,
        };
        let loaded = Loaded { file: "pipeline.toml".into(), pipeline: read(&source).unwrap() };
        let inputs: Vec<&str> = inputs.iter().map(|(name, _)| *name).collect();
        let expected = format!("Registry {{ inputs: {inputs:?}, processes: {processes:?} }}");
        assert_eq!(format!("{:?}", backends.registry(&loaded).unwrap()), expected);
    }
}
