use offloop_photos::jpeg::*;
use std::time::Instant;
fn main() {
    let mut total = 0.0; let mut n=0;
    for path in std::env::args().skip(1) {
        let data = std::fs::read(&path).unwrap();
        let t = Instant::now();
        let d = match Decoder::new(&data) { Ok(d) => d, Err(e) => { println!("{path}: {e}"); continue } };
        let size = d.size();
        let s = 500.0 / size.0.max(size.1) as f64;
        let want = ((size.0 as f64 * s).round() as u32, (size.1 as f64 * s).round() as u32);
        let scale = Scale::covering(size, want);
        let r = d.decode(scale, &|| false);
        let el = t.elapsed().as_secs_f64()*1e3;
        total += el; n+=1;
        println!("{:>9} {:?} {:?} {:.2} ms {:?} {}", data.len(), size, scale, el, r.map(|p| (p.model, p.planes.len(), p.icc.map(|i| i.len()))), path.rsplit('/').next().unwrap());
    }
    println!("avg {:.2} ms over {n}", total / n as f64);
}
