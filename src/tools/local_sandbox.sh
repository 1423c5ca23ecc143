# Runs a Python program, which comes on standard input, where it finds nothing of this machine but /usr.
# Started by unshare with namespaces of its own: $1 an empty folder, $2 the folder that keeps the session's files.
# Ends with 200 when the system does not allow that.
set -eu
trap 'exit 200' EXIT
root=$1 keep=$2
mount -t tmpfs -o size=1m,mode=755 none "$root"
cd "$root"
mkdir -p usr etc proc dev tmp work keep old
for name in bin sbin lib lib32 lib64; do
  if [ -L "/$name" ]; then ln -s "$(readlink "/$name")" "$name"
  elif [ -d "/$name" ]; then mkdir "$name"; mount --rbind "/$name" "$name"; mount -o remount,bind,ro "$name"; fi
done
mount --rbind /usr usr
mount -o remount,bind,ro usr
if [ -f /etc/ld.so.cache ]; then : > etc/ld.so.cache; mount --bind /etc/ld.so.cache etc/ld.so.cache; mount -o remount,bind,ro etc/ld.so.cache; fi
for name in null zero random urandom; do : > "dev/$name"; mount --bind "/dev/$name" "dev/$name"; done
mount -t tmpfs -o size=64m,nr_inodes=2048 none tmp
mount -t tmpfs -o size=64m,nr_inodes=2048 none work
mount --bind "$keep" keep
mount -t proc none proc
echo 0 > proc/sys/user/max_user_namespaces
pivot_root . old
cd /
umount -l /old
cp -r --no-dereference /keep/. /work/
command -v python3 > /dev/null
trap - EXIT
set +e
# The program does not see the folder that is kept: it could fill the disk.
unshare --mount sh -c 'umount /keep && cd /work && exec prlimit --nproc=64 -- \
  setpriv --bounding-set=-all --inh-caps=-all --no-new-privs -- python3 -I -B -'
code=$?
rm -rf /keep/* && cp -r --no-dereference /work/. /keep/
exit "$code"
