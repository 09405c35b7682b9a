# Runs one program that a model wrote. Three processes: the supervisor (this one; it alone speaks to Rust), the first process of
# a PID namespace, and below it the one that runs the program. A job comes as one line of JSON on the standard input, which then stays
# open: when it closes, all is killed. One line of JSON goes back: {"verdict": text}, {"verdict": null} for a process that
# died silently or ran too long, or {"error": text} if the program could not be run.
import concurrent.futures, faulthandler, io, json, multiprocessing, os, pathlib, random, resource, select, shutil, signal, struct
import subprocess, sys, tempfile, threading, time, types
try:
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
except (ImportError, OSError):
    ctypes = libc = None

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MNT_DETACH = 442, -100, 0x8000, 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
# So deep is the stack where the harness runs a program, in a process that a pool's thread forks: with Python 3.11 a function can
# call itself 982 times.
HARNESS_FRAMES = 16
MAX_MESSAGE = 16384

# What the harness takes away.
OS = """kill system putenv remove removedirs rmdir fchdir setuid fork forkpty killpg rename renames truncate replace unlink fchmod
fchown chmod chown chroot lchflags lchmod lchown getcwd chdir"""
SHUTIL = "rmtree move chown"
MODULES = "ipdb joblib resource psutil tkinter"


def call(name, *args):
    if libc is None:
        raise OSError("Python has no ctypes")
    whole = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    if getattr(libc, name)(*whole) == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def attempt(function, *args):
    try:
        function(*args)
        return True
    except (OSError, ValueError, AttributeError):
        return False


def put(path, text, proc):
    fd = os.open(path, os.O_WRONLY, dir_fd=proc)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def map_user(uid, gid, proc):
    attempt(put, "self/setgroups", "deny", proc)
    put("self/uid_map", f"{uid} {uid} 1", proc)
    put("self/gid_map", f"{gid} {gid} 1", proc)


def mount(source, target, kind, flags, data=None):
    encode = lambda text: text and os.fsencode(text)
    call("mount", encode(source), encode(target), encode(kind), flags, encode(data))


# A new root with the system's libraries and Python's, read-only, and one small directory to write to.
def new_root(root, uid, gid, disk):
    bound = []

    def bind(path):
        if not os.path.exists(path) or any(path == b or path.startswith(b + "/") for b in bound):
            return
        target = root + path
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        mount(path, target, None, BIND | REC)
        bound.append(path)

    mount(None, "/", None, REC | PRIVATE)
    mount("tmpfs", root, "tmpfs", NOSUID | NODEV, "size=1m,nr_inodes=4096,mode=755")
    for path in "/usr /bin /sbin /lib /lib32 /lib64 /libx32".split():
        if os.path.islink(path):
            os.symlink(os.readlink(path), root + path)
        else:
            bind(path)
    for path in "ld.so.cache ld.so.conf ld.so.conf.d localtime mime.types alternatives".split():
        bind("/etc/" + path)
    for path in "null zero full random urandom".split():
        bind("/dev/" + path)
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix} - {"/"}
    if any(prefix.startswith("/nix/store/") for prefix in prefixes):
        bind("/nix/store")
    # Not all of the search path: a package in development makes a folder of somebody's projects part of it.
    packages = [path for path in sys.path if path.startswith("/") and path.endswith("-packages")]
    for path in sorted(f"{prefix}/{part}" for prefix in prefixes for part in ("bin", "lib", "lib64")) + packages:
        bind(os.path.normpath(path))
    os.mkdir(root + "/tmp")
    os.symlink("/tmp", root + "/dev/shm")
    try:
        attributes = ctypes.create_string_buffer(struct.pack("=4Q", RDONLY, 0, 0, 0), 32)
        call("syscall", MOUNT_SETATTR, AT_FDCWD, os.fsencode(root), AT_RECURSIVE, attributes, 32)
    except OSError:  # Linux before 5.12
        for path in bound:
            kept = os.statvfs(root + path).f_flag & 0xc0e
            mount(None, root + path, None, REMOUNT | BIND | RDONLY | kept)
        mount(None, root, None, REMOUNT | BIND | RDONLY | NOSUID | NODEV)
    mount("tmpfs", root + "/tmp", "tmpfs", NOSUID | NODEV, f"size={disk},nr_inodes=4096,mode=700,uid={uid},gid={gid}")
    os.chdir(root)
    call("pivot_root", b".", b".")
    call("umount2", b".", MNT_DETACH)
    os.chdir("/tmp")


# Sets a limit of this process; one that is lower already stays.
def limit(which, value):
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def tasks_of(uid):
    count = 0
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdigit() and entry.stat().st_uid == uid:
                count += len(os.listdir(entry.path + "/task"))
        except OSError:
            pass
    return count


def confine(job, uid, gid, proc):
    processes = job["processes"]
    if job["drop"]:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        call("prctl", PR_SET_DUMPABLE, 1)
    own = False
    if job["namespaces"] != "none":
        attempt(put, "self/oom_score_adj", "1000", proc)
        # One more user namespace: it counts its own processes (since Linux 5.14) and none can be made in it.
        if attempt(call, "unshare", NEWUSER):
            map_user(uid, gid, proc)
            attempt(put, "sys/user/max_user_namespaces", "0", proc)
            own = tuple(int(n) for n in os.uname().release.split("-")[0].split(".")[:2]) >= (5, 14)
        call("capset", struct.pack("=Ii", 0x20080522, 0), bytes(24))
    if not own:
        processes += 0 if job["drop"] else job["tasks"]
    attempt(call, "prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    attempt(call, "prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
    for which, value in (
        ("NPROC", processes), ("AS", job["memory"]), ("FSIZE", job["disk"]), ("NOFILE", job["files"]), ("CORE", 0),
        ("CPU", 4 * int(job["timeout"] + 2)), ("MEMLOCK", 0), ("MSGQUEUE", 0),
    ):
        limit(getattr(resource, "RLIMIT_" + which), value)


class Mute(io.StringIO):
    def read(self, *_):
        raise OSError

    readline = readlines = read

    def readable(self):
        return False


class Alarm(Exception):
    pass


def guard():
    import builtins
    faulthandler.disable()
    tempfile.gettempdir()
    for module, names in ((os, OS), (shutil, SHUTIL), (subprocess, "Popen"), (builtins, "exit quit help")):
        for name in names.split():
            setattr(module, name, None)
    for name in MODULES.split():
        sys.modules[name] = None
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = [""]


def deeper(frames, program):
    if frames > 1:
        deeper(frames - 1, program)
    else:
        exec(program, {})


# What the program earns. All that is needed afterwards is local: the program may have spoilt every module.
def judge(program, timeout):
    def alarm(*_):
        raise Alarm("Timed out!")

    streams, setitimer, real = (sys.stdin, sys.stdout, sys.stderr), signal.setitimer, signal.ITIMER_REAL
    depth, frame = 0, sys._getframe()
    while frame:
        depth, frame = depth + 1, frame.f_back
    guard()
    try:
        sys.stdin, sys.stdout = Mute(), Mute()
        sys.stderr = sys.stdout
        signal.signal(signal.SIGALRM, alarm)
        setitimer(real, timeout)
        try:
            deeper(HARNESS_FRAMES - depth, program)
        finally:
            setitimer(real, 0)
            sys.stdin, sys.stdout, sys.stderr = streams
        return "passed"
    except Alarm:
        return "timed out"
    except BaseException as e:
        return f"failed: {e}"


def run_program(job, uid, gid, proc, channel):
    write, leave = os.write, os._exit
    try:
        token, program, timeout = job.pop("token"), job.pop("program"), job["timeout"]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        confine(job, uid, gid, proc)
        if proc is not None:
            os.close(proc)
        job.clear()
        write(channel, b"\n")
    except BaseException as e:
        write(channel, token + b"error: " + str(e).encode()[:MAX_MESSAGE] + token)
        leave(1)
    try:
        verdict = judge(program, timeout)
        write(channel, token + verdict[:MAX_MESSAGE].encode("utf-8", "backslashreplace") + token)
    finally:
        leave(0)


# The parent of the program's process; first in its PID namespace, so that nothing in there outlives it.
def first_process(job, uid, gid, proc, channel):
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        attempt(call, "prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
        child = os.fork()
        if child == 0:
            run_program(job, uid, gid, proc, channel)
        os.close(channel)
        while os.wait()[0] != child:
            pass
    finally:
        os._exit(0)


# Kills what is left of the program: below the first process, and orphans that came to this one.
def sweep(first, reaped):
    if not reaped:
        attempt(os.killpg, first, signal.SIGKILL)
        attempt(os.kill, first, signal.SIGKILL)
        os.waitpid(first, 0)
    until = time.monotonic() + 2
    while time.monotonic() < until:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/stat", "rb") as stat:
                        if int(stat.read().rpartition(b")")[2].split()[1]) == os.getpid():
                            os.kill(int(name), signal.SIGKILL)
                except (OSError, IndexError, ValueError):
                    pass


def supervise(control, out, job):
    uid, gid, root, proc = os.geteuid(), os.getegid(), os.getcwd(), None
    job["tasks"] = 0 if job["drop"] else tasks_of(uid)
    user = (uid, gid)
    if job["drop"]:
        # One of those that no account has, another for each run.
        user = (61184 + os.getpid() % 4336,) * 2
    if job["namespaces"] == "none":
        work = root
        if job["drop"]:
            os.chown(root, *user)
    else:
        work = "/tmp"
        proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        flags = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET
        call("unshare", flags | (NEWUSER if job["namespaces"] == "user" else 0))
        if job["namespaces"] == "user":
            map_user(uid, gid, proc)
        new_root(root, *user, job["disk"])
    os.environ["HOME"] = os.environ["TMPDIR"] = work
    attempt(call, "prctl", PR_SET_CHILD_SUBREAPER, 1)

    job["token"] = token = os.urandom(16).hex().encode()
    verdicts, channel = os.pipe()
    first = os.fork()
    if first == 0:
        # Only the supervisor can answer.
        for fd in (control, out, verdicts):
            os.close(fd)
        first_process(job, *user, proc, channel)
    os.close(channel)
    # The harness's second of grace is the program's: it counts from where that begins, which a busy machine may delay.
    until = time.monotonic() + 10
    heard, reaped, stopped, watched = b"", False, False, [control, verdicts]
    while True:
        ready = select.select(watched, [], [], max(0, min(until - time.monotonic(), 0.05)))[0]
        if control in ready and not os.read(control, 1):
            stopped = True
            break
        if verdicts in ready:
            part = os.read(verdicts, 65536)
            if not heard:
                until = time.monotonic() + job["timeout"] + 1
            heard += part
            if not part or heard.count(token) == 2:
                break
            if len(heard) > 1 << 18:
                watched = [control]
        elif reaped or time.monotonic() >= until:
            break
        if not reaped:
            reaped = os.waitpid(first, os.WNOHANG)[0] == first
    sweep(first, reaped)
    parts = heard.split(token)
    if not heard and not stopped:
        raise RuntimeError("the program's process did not start")
    text = parts[1].decode("utf-8", "replace") if len(parts) == 3 else None
    if text and text.startswith("error: "):
        return {"error": text[7:]}
    return {"verdict": text}


def main():
    control, out, line = os.dup(0), os.dup(1), b""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(max(control, out, null) + 1, 4096)
    os.close(null)
    while not line.endswith(b"\n"):
        part = os.read(control, 1 << 20)
        if not part:
            return
        line += part
    try:
        answer = supervise(control, out, json.loads(line))
    except Exception as e:
        answer = {"error": str(e)}
    os.write(out, json.dumps(answer).encode())


main()
