//! Who runs what, in which company, and what stays behind.

use super::*;

fn request(body: &str) -> Request {
    let bytes = Bytes::copy_from_slice(body.as_bytes());
    Request {
        body: Collected::free(bytes),
        raw: None,
    }
}

fn bcrypt_body(cost: u8) -> String {
    format!("{{\"password\":\"p\",\"algorithm\":\"bcrypt\",\"params\":{{\"cost\":{cost}}}}}")
}

#[test]
fn nobody_is_run_twice_and_nothing_is_kept_of_who_left() {
    let desk = Desk::new(1);
    let (place, _told) = desk.put(Op::Hash, request("{}")).unwrap();
    let payload = place.ticket.payload();
    assert!(Desk::is_ticket(&payload));
    let found = desk.find(&payload).unwrap();
    assert!(found.take().is_some());
    assert!(found.take().is_none());
    drop(place);
    assert!(desk.find(&payload).is_none() && desk.is_empty());
    assert!(found.is_gone());
}

#[test]
fn nobody_takes_the_ticket_of_another_by_its_number() {
    let desk = Desk::new(1);
    let (place, _told) = desk.put(Op::Open, request("{}")).unwrap();
    let payload = place.ticket.payload();
    for bit in 8..payload.len() * 8 {
        let mut guess = payload.to_vec();
        guess[bit / 8] ^= 1 << (bit % 8);
        assert!(desk.find(&guess).is_none(), "{bit}");
    }
    assert!(desk.find(&payload[..16]).is_none());
    assert!(!Desk::is_ticket(b"{\"password\":\"\"}"));
}

#[test]
fn company_is_of_one_cost_and_leaves_a_ticket_for_each_idle_thread() {
    let desk = Desk::new(2);
    let argon = "{\"password\":\"p\"}".to_owned();
    let bodies = [
        bcrypt_body(5),
        bcrypt_body(4),
        argon,
        bcrypt_body(5),
        "no JSON".into(),
        bcrypt_body(5),
        bcrypt_body(5),
    ];
    let put = |body: &String| desk.put(Op::Hash, request(body)).unwrap();
    let mut places: Vec<_> = bodies.iter().map(put).collect();
    let host = desk.find(&places[0].0.ticket.payload()).unwrap();
    assert!(host.take().is_some());
    let _host_runs = desk.busy();
    // Six wait, one thread is idle and will take one of them.
    let company = desk.company(5);
    let numbers: Vec<_> = company.iter().map(|(ticket, _)| ticket.number).collect();
    assert_eq!(numbers, [4, 6, 7]);
    assert_eq!(desk.shared(), 3);
    // The others were read, and are still there for a run of their own.
    for at in [1, 2, 4] {
        let taken = places[at].0.ticket.take();
        assert!(matches!(taken, Some(Taken::Read(_))), "{at}");
    }
    let (guest, told) = places.remove(3);
    assert!(guest.ticket.take().is_none());
    guest.ticket.answer(Err(VaultError::stopped()));
    assert_eq!(
        told.blocking_recv().unwrap().unwrap_err().kind,
        crate::Kind::Stopped
    );
}

#[test]
fn one_that_is_alone_or_about_to_be_taken_is_not_drawn_into_a_run() {
    let desk = Desk::new(2);
    let (_other, _told) = desk.put(Op::Hash, request(&bcrypt_body(5))).unwrap();
    let _host_runs = desk.busy();
    assert!(
        desk.company(5).is_empty(),
        "the idle thread takes it at once"
    );
    let _second_runs = desk.busy();
    assert_eq!(desk.company(5).len(), 1);
}
