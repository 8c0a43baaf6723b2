//! Spans of deliveries to an OpenTelemetry collector, as JSON over HTTP (`/v1/traces`). Small on purpose: what it can't send
//! in time it drops and counts, and nothing that happens here holds up a delivery.

mod encoding;
mod settings;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use reqwest::{Client, redirect};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use encoding::{Fields, Parent, Span, encode};
use settings::Settings;

/// The target of the spans that are exported.
const TARGET: &str = "dapper::delivery";
/// Spans that wait to be sent; more are dropped.
const MAX_WAITING: usize = 4_096;
/// Spans in one request.
const MAX_BATCH: usize = 512;
/// How long the first of a batch waits for others.
const LINGER: Duration = Duration::from_millis(500);
/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// How long the end of the program waits for what is still to be sent.
const END_LIMIT: Duration = Duration::from_secs(3);

/// Makes spans out of what happens.
pub(super) struct Spans {
    queue: mpsc::SyncSender<Message>,
    dropped: Arc<AtomicU64>,
    samples_roots: bool,
}

/// Sends the spans. Dropping it sends what is left.
pub(super) struct Exporter {
    queue: mpsc::SyncSender<Message>,
    done: mpsc::Receiver<()>,
}

type BoxedLayer<S> = Box<dyn Layer<S> + Send + Sync>;

enum Message {
    Span(Box<Span>),
    End,
}

/// Starts sending, where the variables name a collector.
pub(super) fn start<S>(
    look_up: &dyn Fn(&str) -> Option<String>,
) -> anyhow::Result<Option<(BoxedLayer<S>, Exporter)>>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    let Some(settings) = Settings::read(look_up)? else { return Ok(None) };
    let (queue, waiting) = mpsc::sync_channel(MAX_WAITING);
    let (tell, done) = mpsc::channel();
    let dropped = Arc::new(AtomicU64::new(0));
    let spans =
        Spans { queue: queue.clone(), dropped: Arc::clone(&dropped), samples_roots: settings.samples_roots };
    let client = client()?;
    thread::Builder::new().name("dapper-otlp".to_owned()).spawn(move || {
        send_all(&client, &settings, &waiting, &dropped);
        let _ = tell.send(());
    })?;
    let is_delivery = |metadata: &Metadata<'_>| metadata.is_span() && metadata.target() == TARGET;
    let layer = spans.with_filter(filter_fn(is_delivery));
    Ok(Some((Box::new(layer), Exporter { queue, done })))
}

fn client() -> anyhow::Result<Client> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls_platform_verifier::Verifier::new(Arc::clone(&provider));
    let config =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = config.dangerous();
    let config = match verifier {
        Ok(verifier) => config.with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth(),
        Err(error) => return Err(error).context("this system has no certificates to trust"),
    };
    let builder = Client::builder().tls_backend_preconfigured(config).redirect(redirect::Policy::none());
    Ok(builder.no_proxy().timeout(REQUEST_LIMIT).build()?)
}

impl<S> Layer<S> for Spans
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let parent = fields.take("traceparent").and_then(|text| Parent::parse(&text));
        let is_sampled = parent.as_ref().map_or(self.samples_roots, |parent| parent.is_sampled);
        if is_sampled {
            span.extensions_mut().insert(Span::new(attributes.metadata().name(), parent, fields, now()));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(span) = span.extensions_mut().get_mut::<Span>() {
            values.record(&mut span.fields);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(mut span) = context.span(&id).and_then(|span| span.extensions_mut().remove::<Span>()) else {
            return;
        };
        span.end = now();
        if self.queue.try_send(Message::Span(Box::new(span))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        // A queue that is full, or a sender that has ended, has nothing to be waited for.
        if self.queue.try_send(Message::End).is_ok() {
            let _ = self.done.recv_timeout(END_LIMIT);
        }
    }
}

fn send_all(client: &Client, settings: &Settings, waiting: &mpsc::Receiver<Message>, dropped: &AtomicU64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return tracing::warn!("no spans are sent: {error}"),
    };
    let mut ended = false;
    while !ended {
        let mut batch = Vec::new();
        let mut next = waiting.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected);
        loop {
            match next {
                Ok(Message::Span(span)) => batch.push(*span),
                Ok(Message::End) | Err(mpsc::RecvTimeoutError::Disconnected) => ended = true,
                Err(mpsc::RecvTimeoutError::Timeout) => break,
            }
            if ended || batch.len() >= MAX_BATCH {
                break;
            }
            next = waiting.recv_timeout(LINGER);
        }
        if batch.is_empty() {
            continue;
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(lost, "spans were dropped: the collector takes them too slowly");
        }
        if let Err(error) = runtime.block_on(send(client, settings, &batch)) {
            tracing::warn!(lost = batch.len(), "the collector does not take spans: {error:#}");
        }
    }
}

async fn send(client: &Client, settings: &Settings, batch: &[Span]) -> anyhow::Result<()> {
    let request = client.post(settings.endpoint.clone()).headers(settings.headers.clone());
    let request = request.json(&encode(&settings.service, batch));
    // The address may hold a secret.
    let answer = request.send().await.map_err(reqwest::Error::without_url)?;
    anyhow::ensure!(answer.status().is_success(), "it answered {}", answer.status());
    Ok(())
}

/// A span's times are for people and collectors; nothing is decided by them.
#[expect(clippy::disallowed_methods, reason = "the protocol wants the wall clock")]
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;

    use serde_json::Value;
    use tracing_subscriber::layer::SubscriberExt;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    /// A collector that answers each request with `status`; what it was sent: path and headers, and body.
    fn collector(status: &'static str) -> (String, mpsc::Receiver<(String, Value)>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (sender, requests) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut head = String::new();
                while stream.read_line(&mut head).unwrap() > 2 {}
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let mut body = vec![0; length.unwrap().parse().unwrap()];
                stream.read_exact(&mut body).unwrap();
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
                if sender.send((head, serde_json::from_slice(&body).unwrap())).is_err() {
                    return;
                }
            }
        });
        (address, requests)
    }

    /// Lets `work` make spans that go to the collector.
    fn exported(address: &str, more: &[(&str, &str)], work: impl FnOnce()) {
        let look_up = |name: &str| match name {
            "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(address.to_owned()),
            name => more.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned()),
        };
        let (layer, exporter) = start(&look_up).unwrap().unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        drop(exporter);
    }

    fn deliver(traceparent: Option<&str>) {
        let span = tracing::debug_span!(
            target: "dapper::delivery", "deliver", process = "notify", token = 7_u64, traceparent, outcome = tracing::field::Empty
        );
        span.record("outcome", "handled");
    }

    fn spans(body: &Value) -> &Vec<Value> {
        body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap()
    }

    #[test]
    fn a_delivery_is_a_span_below_the_writers() {
        let (address, requests) = collector("200 OK");
        let more = [("OTEL_EXPORTER_OTLP_HEADERS", "x-key=1"), ("OTEL_SERVICE_NAME", "orders")];
        exported(&address, &more, || {
            deliver(Some(&format!("00-{TRACE}-00f067aa0ba902b7-01")));
            deliver(Some(&format!("00-{TRACE}-00f067aa0ba902b7-00")));
            deliver(Some("garbage"));
            tracing::info_span!("something else");
        });
        let (head, body) = requests.recv_timeout(REQUEST_LIMIT).unwrap();
        assert!(head.starts_with("POST /v1/traces HTTP/1.1") && head.contains("x-key: 1"), "{head}");
        let service = &body["resourceSpans"][0]["resource"]["attributes"][0];
        assert_eq!(service["value"]["stringValue"], "orders");
        let spans = spans(&body);
        assert_eq!(spans.len(), 2, "what the writer does not sample is not sent: {body}");
        let first = &spans[0];
        assert_eq!((&first["traceId"], &first["parentSpanId"]), (&TRACE.into(), &"00f067aa0ba902b7".into()));
        assert_eq!(
            (&first["name"], &first["kind"], &first["status"]["code"]),
            (&"deliver".into(), &5.into(), &1.into())
        );
        let attributes = first["attributes"].to_string();
        for attribute in [
            r#"{"key":"dapper.process","value":{"stringValue":"notify"}}"#,
            r#"{"key":"dapper.token","value":{"intValue":"7"}}"#,
        ] {
            assert!(attributes.contains(attribute), "{attributes}");
        }
        let time = |name: &str| first[name].as_str().unwrap().parse::<u64>().unwrap();
        assert!(time("startTimeUnixNano") > 0 && time("startTimeUnixNano") <= time("endTimeUnixNano"));
        assert_eq!(spans[1]["parentSpanId"], "", "a trace of its own: {body}");
        assert_ne!(spans[1]["traceId"], TRACE);
    }

    #[test]
    fn without_a_writers_trace_nothing_is_sent_when_told_so() {
        let (address, requests) = collector("200 OK");
        exported(&address, &[("OTEL_TRACES_SAMPLER", "parentbased_always_off")], || {
            deliver(None);
            deliver(Some(&format!("00-{TRACE}-00f067aa0ba902b7-01")));
        });
        let (_, body) = requests.recv_timeout(REQUEST_LIMIT).unwrap();
        assert_eq!(spans(&body).len(), 1, "{body}");
    }

    #[test]
    fn a_collector_that_refuses_or_is_gone_holds_nothing_up() {
        let (refusing, requests) = collector("503 Service Unavailable");
        for address in [refusing.as_str(), "http://127.0.0.1:1"] {
            let started = std::time::Instant::now();
            exported(address, &[], || (0..MAX_WAITING * 2).for_each(|_| deliver(None)));
            assert!(started.elapsed() < Duration::from_secs(30), "{address}");
        }
        assert!(requests.try_iter().count() > 0);
    }
}
