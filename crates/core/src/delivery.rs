//! How events are handed over, and how an input learns what became of each.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;

use crate::parking::SharedParking;
use crate::{Entry, Event, Parking, Stored};

/// Says whether events that were handed over may still be given to a process.
///
/// An input whose right to deliver can end (a lease) attaches one to its deliveries; whoever runs the processes asks
/// it immediately before each hand-off. It must answer from memory, without waiting.
pub trait Validity: Send + Sync {
    /// False once the right to deliver has ended; never true again after that.
    fn is_valid(&self) -> bool;
}

/// A batch of events in the order of their changes.
///
/// Events of one key must be run one after the other in this order; others may run at the same time. Dropping a
/// delivery, or any [`Acknowledgement`] taken from it, leaves those events *abandoned*: not handled, to be delivered
/// again.
pub struct Delivery {
    events: Vec<Event>,
    entry: Entry,
    stored: Stored,
    shared: Arc<Shared>,
}

/// What an input says of a delivery besides its events.
#[derive(Clone, Default)]
pub struct Terms {
    /// How long its events may be handed to a process; for ever when absent.
    pub validity: Option<Arc<dyn Validity>>,
    /// Where to store what a process can't handle now.
    pub parking: Option<Arc<dyn Parking>>,
    /// Where its events enter.
    pub entry: Entry,
    /// What of it is stored already.
    pub stored: Stored,
}

/// The input's side of a [`Delivery`]: a future that resolves when every event is either handled or abandoned.
///
/// Cancel-safe: polling it again after it was dropped from a `select!` loses nothing.
pub struct Receipt {
    shared: Arc<Shared>,
}

/// The duty to say what became of one event.
///
/// [`handled`](Self::handled) reports success; dropping it reports that the event was abandoned.
pub struct Acknowledgement {
    shared: Arc<Shared>,
    index: usize,
}

struct Shared {
    handled: Box<[AtomicBool]>,
    unsettled: AtomicUsize,
    waker: AtomicWaker,
    validity: Option<Arc<dyn Validity>>,
    parking: Option<SharedParking>,
}

impl Delivery {
    /// A delivery that stays valid for ever, and the receipt for it.
    #[must_use]
    pub fn new(events: Vec<Event>) -> (Self, Receipt) {
        Self::with_terms(events, Terms::default())
    }

    /// A delivery whose events may be handed to a process only while `validity` holds.
    #[must_use]
    pub fn with_validity(events: Vec<Event>, validity: Arc<dyn Validity>) -> (Self, Receipt) {
        Self::with_terms(events, Terms { validity: Some(validity), ..Terms::default() })
    }

    /// A delivery on these terms.
    #[must_use]
    pub fn with_terms(events: Vec<Event>, terms: Terms) -> (Self, Receipt) {
        let Terms { validity, parking, entry, stored } = terms;
        let shared = Arc::new(Shared {
            handled: events.iter().map(|_| AtomicBool::new(false)).collect(),
            unsettled: AtomicUsize::new(events.len()),
            waker: AtomicWaker::new(),
            validity,
            parking,
        });
        (Self { events, entry, stored, shared: Arc::clone(&shared) }, Receipt { shared })
    }

    /// Where its events enter.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// What of it is stored already.
    #[must_use]
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    /// How many events it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether it holds no event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Takes the events out, each with the duty to say what became of it.
    pub fn into_events(mut self) -> impl Iterator<Item = (Event, Acknowledgement)> {
        let events = std::mem::take(&mut self.events);
        let shared = Arc::clone(&self.shared);
        // Each acknowledgement is made before the iterator is returned, so that events which nobody takes out are
        // abandoned when the iterator is dropped.
        let pairs: Vec<_> = events
            .into_iter()
            .enumerate()
            .map(|(index, event)| (event, Acknowledgement { shared: Arc::clone(&shared), index }))
            .collect();
        pairs.into_iter()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        for _ in &self.events {
            self.shared.settle_one();
        }
    }
}

impl Acknowledgement {
    /// Whether the event may be handed to a process now; ask immediately before doing so.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.shared.validity.as_ref().is_none_or(|validity| validity.is_valid())
    }

    /// Where to store the event when a process can't handle it now, if its input has such a place.
    #[must_use]
    pub fn parking(&self) -> Option<&Arc<dyn Parking>> {
        self.shared.parking.as_ref()
    }

    /// The event's place in its delivery.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Every process that the event was meant for has handled it, or it is stored for those that have not.
    pub fn handled(self) {
        self.shared.handled[self.index].store(true, Ordering::Release);
    }
}

impl Drop for Acknowledgement {
    fn drop(&mut self) {
        self.shared.settle_one();
    }
}

impl Receipt {
    /// Whether every event is settled: handled or abandoned.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.unsettled() == 0
    }

    /// How many events are not settled yet.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.shared.unsettled.load(Ordering::Acquire)
    }

    /// How many events from the start of the delivery are handled without a gap.
    #[must_use]
    pub fn handled_prefix(&self) -> usize {
        self.shared.handled.iter().take_while(|handled| handled.load(Ordering::Acquire)).count()
    }

    /// Whether every event was handled.
    #[must_use]
    pub fn is_handled(&self) -> bool {
        self.handled_prefix() == self.shared.handled.len()
    }
}

impl Future for Receipt {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.is_settled() {
            return Poll::Ready(());
        }
        self.shared.waker.register(context.waker());
        // Settled between the look and the registration: the waker may not have been woken.
        if self.is_settled() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Shared {
    fn settle_one(&self) {
        if self.unsettled.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.waker.wake();
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("events", &self.events).finish_non_exhaustive()
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt").field("unsettled", &self.unsettled()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Acknowledgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acknowledgement").field("index", &self.index).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Operation;
    use futures::FutureExt;

    fn events(count: usize) -> Vec<Event> {
        (0..count).map(|n| Event::new("t", Operation::Create, n.to_string(), "i")).collect()
    }

    #[test]
    fn a_receipt_resolves_when_the_last_event_is_settled() {
        let (delivery, mut receipt) = Delivery::new(events(3));
        let mut pairs: Vec<_> = delivery.into_events().collect();
        pairs.pop().unwrap().1.handled();
        pairs.remove(0).1.handled();
        assert_eq!((&mut receipt).now_or_never(), None);
        assert_eq!((receipt.handled_prefix(), receipt.unsettled()), (1, 1));
        pairs.pop().unwrap().1.handled();
        assert_eq!((&mut receipt).now_or_never(), Some(()));
        assert!(receipt.is_handled());
    }

    #[test]
    fn a_dropped_acknowledgement_abandons_its_event() {
        let (delivery, mut receipt) = Delivery::new(events(2));
        let mut pairs = delivery.into_events();
        pairs.next().unwrap().1.handled();
        drop(pairs);
        assert_eq!((&mut receipt).now_or_never(), Some(()));
        assert!(!receipt.is_handled());
        assert_eq!(receipt.handled_prefix(), 1);
    }

    #[test]
    fn a_dropped_delivery_abandons_all() {
        let (delivery, mut receipt) = Delivery::new(events(2));
        drop(delivery);
        assert_eq!((&mut receipt).now_or_never(), Some(()));
        assert_eq!(receipt.handled_prefix(), 0);
    }

    #[test]
    fn an_empty_delivery_is_settled_at_once() {
        let (_delivery, receipt) = Delivery::new(Vec::new());
        assert!(receipt.is_settled() && receipt.is_handled());
    }

    #[test]
    fn validity_is_asked_each_time() {
        struct Switch(AtomicBool);
        impl Validity for Switch {
            fn is_valid(&self) -> bool {
                self.0.load(Ordering::SeqCst)
            }
        }
        let switch = Arc::new(Switch(AtomicBool::new(true)));
        let (delivery, _receipt) =
            Delivery::with_validity(events(1), Arc::clone(&switch) as Arc<dyn Validity>);
        let (_, acknowledgement) = delivery.into_events().next().unwrap();
        assert!(acknowledgement.is_valid());
        switch.0.store(false, Ordering::SeqCst);
        assert!(!acknowledgement.is_valid());
    }

    #[tokio::test]
    async fn a_waiting_receipt_is_woken() {
        let (delivery, receipt) = Delivery::new(events(100));
        let waiting = tokio::spawn(receipt);
        tokio::task::yield_now().await;
        for (_, acknowledgement) in delivery.into_events() {
            acknowledgement.handled();
        }
        waiting.await.unwrap();
    }
}
