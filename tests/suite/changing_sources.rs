//! Sources that change at moments that only one of the sender's checks can detect, and sources whose size is wrong.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use crate::common::mounted::Mounted;
use crate::common::proofs::{Random, not_run};
use crate::common::proxy::{Action, Place, Proxy, Way};
use crate::common::{Receiver, names, send};
use ftx::digest::PART_BYTES;

/// Writes a file in the first 200 ms of a second, so that the test's own work fits into that second.
fn write_early_in_a_second(path: &Path, content: &[u8]) -> SystemTime {
    loop {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        if since.subsec_millis() < 200 {
            break;
        }
        std::thread::sleep(Duration::from_millis(u64::from(1000 - since.subsec_millis())));
    }
    fs::write(path, content).unwrap();
    fs::metadata(path).unwrap().modified().unwrap()
}

/// Where timestamps have a resolution of a second, a file that is read within the second of its last change can change
/// again without a trace in its size and times.
#[test]
fn file_is_read_only_after_the_timestamp_tick_of_its_last_change() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    let Some(_mounted) = Mounted::whole_seconds(dir.path(), &disk) else {
        return not_run(
            "a file system that dates changes by the second",
            "needs mkfs.ext4 and the right to mount",
        );
    };
    for (name, size) in [("small", 1000), ("large", 2 * PART_BYTES as usize)] {
        let (file, out) = (disk.join(name), dir.path().join("out"));
        let receiver = Receiver::start(&out, &["--once"]);
        let date = write_early_in_a_second(&file, &Random::new(1).bytes(size));
        let (tell, left) = mpsc::channel();
        let changed = file.clone();
        let proxy = Proxy::start(receiver.port, move |piece| {
            if piece.way == Way::ToReceiver
                && piece.place == Place::Body
                && piece.within == 0
                && piece.nth == 0
            {
                tell.send(SystemTime::now()).unwrap();
                let file = fs::OpenOptions::new().write(true).open(&changed).unwrap();
                file.write_all_at(b"other", 100).unwrap();
                file.write_all_at(b"other", size as u64 - 100).unwrap();
            }
            Action::Pass
        });
        let sent = send(&[], &[&file], &proxy.host());
        let received = receiver.wait();
        let left = left.try_recv().unwrap().duration_since(date).unwrap();
        assert!(left >= Duration::from_secs(1), "{name} left {left:?} after its date");
        // A small file is read at once, before it is sent.
        let code = if name == "small" { 0 } else { 24 };
        assert_eq!((sent.code, received.code), (code, code), "{name}: {sent:?} {received:?}");
    }
    let (file, listener) = (disk.join("classic"), TcpListener::bind("127.0.0.1:0").unwrap());
    let host = listener.local_addr().unwrap().to_string();
    let date = write_early_in_a_second(&file, b"bytes");
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Read::read(&mut stream, &mut [0]).unwrap();
        SystemTime::now()
    });
    send(&["--classic"], &[&file], &host);
    let left = receiver.join().unwrap().duration_since(date).unwrap();
    assert!(left >= Duration::from_secs(1), "left {left:?} after its date");
}

/// `/proc/cpuinfo` has size 0 and content, a file of `/sys` a page as its size and less content.
#[test]
fn file_with_more_or_fewer_bytes_than_its_size_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for (file, what) in
        [("/proc/cpuinfo", "longer"), ("/sys/kernel/mm/transparent_hugepage/enabled", "shorter")]
    {
        let (file, out) = (Path::new(file), dir.path().join("out"));
        if !file.exists() {
            not_run(
                "a file whose size does not tell where it ends",
                &format!("there is no {}", file.display()),
            );
            continue;
        }
        for args in [&[][..], &["--classic"]] {
            let receiver = Receiver::start(&out, &[]);
            let sent = send(args, &[file], &receiver.host());
            receiver.kill();
            assert_eq!(sent.code, 23, "{sent:?}");
            let name = file.file_name().unwrap().to_str().unwrap();
            let line =
                format!("not transferred: {name}: the file is {what} than its reported size [file-io]\n");
            assert!(sent.stderr.contains(&line), "{sent:?}");
            assert_eq!(names(&out), Vec::<String>::new());
        }
    }
}
