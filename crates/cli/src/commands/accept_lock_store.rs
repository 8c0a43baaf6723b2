//! `dapper accept-lock-store`: moves an input to another lock store.

use anyhow::{Context, bail};
use dapper_postgres::{accept_lock_store, lease_resource};

use crate::arguments::AcceptLockStore;
use crate::assembly::Loaded;
use crate::backends::{Backends, POSTGRES};
use crate::commands::{load, print};
use crate::pipeline::{CONNECTION_STRING, InputSection};

pub(crate) async fn run(arguments: &AcceptLockStore, backends: &Backends) -> anyhow::Result<()> {
    let loaded = load(&arguments.pipeline, backends)?;
    let section = loaded.input(&arguments.input)?;
    let kind = &section.config.kind;
    if kind != POSTGRES {
        bail!("an input of type {kind} has no cursor that a lock store fences");
    }
    let line = section.lines.of(Some(CONNECTION_STRING));
    if let Some(old) = &arguments.old {
        let old = load(old, backends)?;
        refuse_while_held(&old, old.input(&arguments.input)?, backends).await?;
    }
    let manager = backends.leases(&loaded)?.manager(&section.config)?;
    let store = manager
        .store_id()
        .await
        .with_context(|| loaded.problem(loaded.pipeline.lock.lines.of(None), "cannot use this lock store"))?;
    let accepted = accept_lock_store(&section.config, store)
        .await
        .with_context(|| loaded.problem(line, "cannot move this input"))?;
    let before = match accepted.before {
        Some(before) if before == store.to_string() => "as before".to_owned(),
        Some(before) => format!("instead of {before}"),
        None => "where there was none".to_owned(),
    };
    print(&format!(
        "{}: fenced by lock store {store} from now on, {before}; the next token is above {}\n",
        section.config.name, accepted.token
    ))
}

/// Fails when somebody has the input's lease in the store of `old`, or when that can't be found out.
async fn refuse_while_held(old: &Loaded, section: &InputSection, backends: &Backends) -> anyhow::Result<()> {
    let problem = |reason: &str| old.problem(old.pipeline.lock.lines.of(None), reason);
    let resource = lease_resource(&section.config)
        .await
        .with_context(|| old.problem(section.lines.of(Some(CONNECTION_STRING)), "cannot reach this input"))?;
    let manager = backends.leases(old)?.manager(&section.config)?;
    let holder = manager.holder(&resource).await.with_context(|| {
        problem(
            "cannot ask the old lock store; when it is gone for good, --old-is-gone takes the place of --old",
        )
    })?;
    match holder {
        None => Ok(()),
        Some(held_by) => {
            let reason = format!(
                "{} still holds the lease of input {:?} in the old lock store (token {}, {} s left); stop all replicas \
                 that use it first",
                held_by.holder,
                section.config.name,
                held_by.token,
                held_by.remaining.as_secs()
            );
            Err(problem(&reason).into())
        }
    }
}
