//! Takes the pictures of the page for the documentation, while a real pipeline runs and real faults happen to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use dapper_browser::{Browser, Stage, View};
use dapper_testkit::Database;
use tokio::time::sleep;

const SHOWS: Duration = Duration::from_secs(30);

#[derive(Debug, Parser)]
struct Arguments {
    /// The program `dapper`
    #[arg(long)]
    dapper: PathBuf,
    /// Where the pictures go
    #[arg(long)]
    into: PathBuf,
    /// How long the pipeline runs before the first picture, in seconds
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(30..=600))]
    run: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { dapper, into, run } = Arguments::parse();
    fs::create_dir_all(&into).with_context(|| format!("cannot make {}", into.display()))?;
    let part = Duration::from_secs(run) / 3;
    let mut stage = Stage::set(dapper, Database::create().await?, 3).await?;
    stage.write().await?;
    sleep(part).await;
    stage.take_over().await?;
    stage.start_replica().await?;
    stage.refuse(false);
    sleep(part).await;
    stage.accept();
    sleep(part).await;

    let browser = Browser::start()?;
    let wide = View { still: true, ..View::default() };
    let dark = View { dark: true, ..wide.clone() };
    let narrow = View { width: 390, height: 844, scale: 2.0, ..wide.clone() };
    let leading = "headline.textContent === 'Leading' && document.querySelectorAll('.series').length > 2 && \
                   letters.children.length > 0";
    let standing_by = "headline.textContent === 'Standing by' && document.querySelectorAll('.node').length > 4 && \
                       letters.children.length > 0";
    take(&browser, stage.leading()?, &wide, leading, &into.join("leading.png"))?;
    take(&browser, stage.leading()?, &narrow, leading, &into.join("narrow.png"))?;
    take(&browser, stage.standing_by()?, &dark, standing_by, &into.join("standing-by.png"))?;
    stage.refuse(true);
    let failing = "headline.textContent === 'Not ready' && document.querySelectorAll('.node.bad').length > 0 && \
                   letters.children.length > 0";
    take(&browser, stage.leading()?, &wide, failing, &into.join("failing.png"))
}

fn take(browser: &Browser, url: &str, view: &View, when: &str, into: &Path) -> Result<()> {
    let page = browser.open(url, view)?;
    page.wait_for(when, SHOWS)?;
    // The next answers are there, and everything that they change.
    page.evaluate("new Promise((resume) => setTimeout(resume, 2500))")?;
    fs::write(into, page.picture()?).with_context(|| format!("cannot write {}", into.display()))?;
    println!("{}", into.display());
    Ok(())
}
