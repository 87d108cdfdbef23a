use roundel::*;
fn main() {
    let n: usize = std::env::args().nth(1).unwrap().parse().unwrap();
    let options = Options::from_env().unwrap();
    let comms = Communicator::threads(n, options).unwrap();
    println!("{:?} {}", comms[0], comms[0].transport());
    std::thread::scope(|s| {
        for c in &comms {
            s.spawn(move || {
                for count in [0usize, 1, 7, 100, 5000, 300_001] {
                    let input: Vec<f32> = (0..count).map(|i| (i % 17) as f32 + c.rank() as f32).collect();
                    let mut out = vec![0f32; count];
                    c.all_reduce(&input, &mut out, ReduceOp::Sum).unwrap();
                    for i in 0..count {
                        assert_eq!(
                            out[i],
                            ((i % 17) * n + n * (n - 1) / 2) as f32,
                            "rank {} count {count} i {i}",
                            c.rank()
                        );
                    }
                    let mut x = input.clone();
                    c.all_reduce_in_place(&mut x, ReduceOp::Sum).unwrap();
                    assert_eq!(x, out);
                    c.barrier().unwrap();
                }
                if c.rank() == 0 {
                    println!("ok");
                }
            });
        }
    });
}
