// Interop peer: go-redsync/redsync over go-redis, driven by lines on stdin.
// The protocol is the same for every agent under interop/: one command per
// line, exactly one answer per command.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/go-redsync/redsync/v4"
	redsyncredis "github.com/go-redsync/redsync/v4/redis"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const module = "github.com/go-redsync/redsync/v4"

type agent struct {
	rs    *redsync.Redsync
	nodes int
	held  map[string]*redsync.Mutex // by lock name
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: go-agent <redis-url>...")
		os.Exit(2)
	}
	logging.Disable() // a server that is down is part of the tests, not news
	var pools []redsyncredis.Pool
	for _, url := range os.Args[1:] {
		pools = append(pools, connect(url))
	}
	a := &agent{redsync.New(pools...), len(pools), map[string]*redsync.Mutex{}}

	fmt.Println("ready", module, version())
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		args := strings.Fields(in.Text())
		if len(args) == 1 && args[0] == "quit" {
			return
		}
		// Joined errors hold newlines; an answer is one line.
		fmt.Println(strings.ReplaceAll(a.answer(args), "\n", "; "))
	}
}

func connect(url string) redsyncredis.Pool {
	opt, err := redis.ParseURL(url)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	opt.MaxRetries = -1              // one try: a resent SET NX would meet its own key
	opt.DialerRetries = 1            // the default redials for half a second
	opt.ContextTimeoutEnabled = true // else redsync's per-node timeout is ignored
	opt.ReadTimeout = time.Second    // extend and unlock carry no deadline
	opt.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	client := redis.NewClient(opt)
	// Connect now: redsync allows a node 5% of the expiry, which a first
	// connection can miss when the expiry is short. Down servers are fine.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = client.Ping(ctx).Err()
	return goredis.NewPool(client)
}

func (a *agent) answer(args []string) string {
	ms := 0
	if len(args) == 3 {
		ms, _ = strconv.Atoi(args[2])
	}
	expiry := time.Duration(ms) * time.Millisecond
	switch {
	case len(args) == 3 && args[0] == "lock" && ms > 0:
		return a.lock(args[1], expiry)
	case len(args) == 3 && args[0] == "extend" && ms > 0:
		if m := a.held[args[1]]; m != nil {
			// Extend takes no duration, it uses the mutex's expiry: a mutex with
			// the same value and the new expiry stands for the same lock.
			m = a.rs.NewMutex(m.Name(), redsync.WithExpiry(expiry), redsync.WithValue(m.Value()))
			return verdict(m.Extend())
		}
		return "failed not locked by this agent"
	case len(args) == 2 && args[0] == "unlock":
		if m := a.held[args[1]]; m != nil {
			delete(a.held, args[1])
			return verdict(m.Unlock())
		}
		return "failed not locked by this agent"
	}
	return "error bad command: " + strings.Join(args, " ")
}

func (a *agent) lock(name string, expiry time.Duration) string {
	m := a.rs.NewMutex(name, redsync.WithTries(1), redsync.WithExpiry(expiry))
	err := m.Lock()
	switch {
	case err == nil:
		a.held[name] = m
		return "ok " + m.Value()
	case !errors.Is(err, redsync.ErrFailed) && 2*(a.nodes-unreachable(err)) > a.nodes:
		return "taken" // a majority answered, so other holders denied the quorum
	}
	return "error " + err.Error()
}

// unreachable counts the servers that gave no answer, in a tree of joined errors.
func unreachable(err error) int {
	if _, ok := err.(*redsync.RedisError); ok {
		return 1
	}
	n := 0
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			n += unreachable(e)
		}
	}
	return n
}

func verdict(ok bool, err error) string {
	if ok {
		return "ok" // err may still tell of a minority that failed
	}
	if err == nil {
		err = errors.New("no quorum")
	}
	return "failed " + err.Error()
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == module {
				return dep.Version
			}
		}
	}
	return "unknown"
}
