//! The pool's thread: waits for what children say, for their death, and for time.

use std::time::Instant;

use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::channel::READ_BYTES;
use super::part::Part;
use super::{Shared, WAKE, recycle, sample};

const EVENTS: usize = 64;

pub(super) fn run(shared: &Shared) {
    let Some(epoll) = shared.epoll.get() else {
        return;
    };
    let nothing = Event {
        flags: EventFlags::empty(),
        data: EventData::new_u64(0),
    };
    let mut events = [nothing; EVENTS];
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let mut pool = shared.lock();
        if pool.ending && pool.children.is_empty() {
            return;
        }
        let due = pool.due();
        pool.sleeps_until = due;
        drop(pool);
        let wait = due.saturating_duration_since(Instant::now());
        let wait = Timespec::try_from(wait).ok();
        let count = match epoll::wait(epoll, &mut events[..], wait.as_ref()) {
            Ok(count) => count,
            Err(Errno::INTR) => 0,
            Err(_) => return, // the descriptor is ours and stays open
        };
        let mut pool = shared.lock();
        let now = Instant::now();
        for event in &events[..count] {
            let (flags, token) = (event.flags, event.data.u64());
            if token == WAKE {
                shared.hush();
                continue;
            }
            let (number, part) = Part::of(token);
            let Some(part) = part else { continue };
            if flags.contains(EventFlags::OUT) {
                shared.writable(&mut pool, number, part);
            }
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                shared.readable(&mut pool, number, part, &mut buffer, now);
            }
        }
        shared.tick(&mut pool, now);
        let targets = shared.sample_targets(&pool, now);
        let heavy = pool.to_weigh();
        shared.settle(pool);
        if !heavy.is_empty() {
            let weights = recycle::weigh(heavy);
            let mut pool = shared.lock();
            shared.weighed(&mut pool, weights, Instant::now());
            shared.settle(pool);
        }
        if !targets.is_empty() {
            let samples = sample::look(targets);
            let mut pool = shared.lock();
            shared.sampled(&mut pool, samples, Instant::now());
            shared.settle(pool);
        }
    }
}
