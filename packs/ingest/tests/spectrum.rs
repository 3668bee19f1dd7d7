//! The twelve kinds of file that every CSV reader is held to (the same kinds as npm's
//! csv-spectrum, written anew here): their cells must come out exactly.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{declared, read_all};

/// Name, file, and its rows; the first record is the header.
type Case = (
    &'static str,
    &'static str,
    &'static [&'static [&'static str]],
);

#[rustfmt::skip]
const CASES: &[Case] = &[
    ("comma in quotes", "first,street,town\nAda,\"12 Long Lane, Flat 3\",Leeds\n",
        &[&["Ada", "12 Long Lane, Flat 3", "Leeds"]]),
    ("empty fields", "a,b,c\n1,\"\",\"\"\n2,3,4\n", &[&["1", "", ""], &["2", "3", "4"]]),
    ("empty fields, CRLF", "a,b,c\r\n1,\"\",\"\"\r\n2,3,4\r\n", &[&["1", "", ""], &["2", "3", "4"]]),
    ("escaped quotes", "a,b\n1,\"so \"\"quoted\"\" it is\"\n3,4\n",
        &[&["1", "so \"quoted\" it is"], &["3", "4"]]),
    ("JSON in a field", "key,val\n1,\"{\"\"type\"\": \"\"Point\"\", \"\"at\"\": [102.0, 0.5]}\"\n",
        &[&["1", "{\"type\": \"Point\", \"at\": [102.0, 0.5]}"]]),
    ("coordinates", "name,coordinates\n\"Eyre Peninsula\",\"136.25°E,\n 33.9°S\"\n",
        &[&["Eyre Peninsula", "136.25°E,\n 33.9°S"]]),
    ("line ends in quotes", "a,b,c\n1,2,3\n\"Once upon\na time\",5,6\n7,8,9\n",
        &[&["1", "2", "3"], &["Once upon\na time", "5", "6"], &["7", "8", "9"]]),
    ("line ends in quotes, CRLF", "a,b,c\r\n1,2,3\r\n\"Once upon\r\na time\",5,6\r\n7,8,9\r\n",
        &[&["1", "2", "3"], &["Once upon\r\na time", "5", "6"], &["7", "8", "9"]]),
    ("quotes and line ends", "a,b\n1,\"ha\n\"\"ha\"\"\nha\"\n3,4\n", &[&["1", "ha\n\"ha\"\nha"], &["3", "4"]]),
    ("simple", "a,b,c\n1,2,3\n", &[&["1", "2", "3"]]),
    ("simple, CRLF", "a,b,c\r\n1,2,3\r\n", &[&["1", "2", "3"]]),
    ("UTF-8", "a,b,c\n1,2,3\n4,5,ʤ €\n", &[&["1", "2", "3"], &["4", "5", "ʤ €"]]),
];

#[test]
fn no_cell_of_the_usual_corner_cases_differs() {
    for (name, file, rows) in CASES {
        let header = file.lines().next().unwrap();
        let columns: Vec<_> = header
            .split(',')
            .map(|column| format!("{{ name = \"{column}\", type = \"text\" }}"))
            .collect();
        let target = declared(&format!(
            "sink = \"ndjson\"\npath = \"out\"\nnull = []\ncolumns = [{}]",
            columns.join(", ")
        ));
        for cuts in [vec![], (0..file.len()).collect()] {
            let read = read_all(&target, file.as_bytes(), &cuts);
            assert!(
                read.error.is_none() && read.rejects.is_empty(),
                "{name}: {read:?}"
            );
            assert_eq!(read.table(), *rows, "{name}");
        }
    }
}
