package main

// notBuilt says of a rule without removals why it has none.
var notBuilt = map[int]string{
	10: "there is no journal: every segment is synced by itself",
	20: "there is no compaction",
}

// removals are in the order of the rules.
var removals = []removal{
	// Who a replica is.
	{
		1, "a frame for a replica that is not here is refused", "cluster/transport/mux.go",
		"	e, ok := m.endpoints[id]\n	m.mu.RUnlock()\n",
		"	e, ok := m.endpoints[id]\n	for _, other := range m.endpoints {\n		if !ok {\n			e, ok = other, true\n		}\n	}\n	m.mu.RUnlock()\n",
		"cluster/transport", "TestRule1Identity",
	},
	{
		1, "a replica without a configuration gives no vote", "cluster/transport/inbox.go",
		"		// Safety rule 1: an empty replica would grant any vote.\n		if !e.group.HasConfiguration() {", "		if false {",
		"cluster/transport", "TestRule1VotesNeedAConfiguration",
	},
	{
		1, "votes without a folder are a lost replica", "partition/open.go",
		"	case !known && voted:", "	case false:",
		"partition", "TestRule1LogsAndVotesThatAreLost",
	},
	{
		1, "votes without a log are a lost replica", "partition/open.go",
		"	if last == 0 && voted && !p.identity.emptyOK {", "	if false {",
		"partition", "TestRule1LogsAndVotesThatAreLost",
	},
	{
		1, "a log without votes is a lost replica", "partition/open.go",
		"	if last > 0 && !termOne {", "	if false {",
		"partition", "TestRule1LogsAndVotesThatAreLost",
	},
	{
		1, "a log without votes is a lost replica, in a cluster", "partition/open.go",
		"	if last > 0 && !termOne {", "	if false {",
		"simulation", "TestIdentityMatrix",
	},
	{
		1, "a folder belongs to one replica", "partition/open.go",
		"	case known && (id.self != o.Self ||", "	case known && (false ||",
		"partition", "TestRule1LogsAndVotesThatAreLost",
	},
	{
		1, "a replica that voted is never bootstrapped", "partition/open.go",
		"len(o.Bootstrap) > 0 && !voted {", "len(o.Bootstrap) > 0 {",
		"partition", "TestRule6CrashDuringWipeAndInstall",
	},
	{
		1, "a replica is opened on the disk that it was given to", "cluster/replicas.go",
		"mr.Node == rs.self && mr.Incarnation == rs.inc {", "mr.Node == rs.self {",
		"cluster", "TestRule1ReplicasOfAnotherDisk",
	},
	{
		1, "the dead replica of a disk goes before its successor comes", "cluster/members.go",
		"ok && w != r && r != self {", "ok && w != r && false {",
		"cluster", "TestNextStepReplacesALostReplica",
	},
	{
		1, "a controller member whose log is gone does not start", "cluster/controller/controller.go",
		"	if member == id && !c.HasState() {", "	if false {",
		"cluster/controller", "TestWipedDisk",
	},
	{
		2, "the term of a vote is held back until the candidate is known", "cluster/votes/stable.go",
		"	if string(key) == keyLastVoteTerm {", "	if false {",
		"cluster/votes", "TestTornVote",
	},
	{
		2, "the controller's vote is one value", "cluster/controller/store.go",
		"		s.heldTerm, s.held = v, true\n",
		"		s.voteTerm = v\n		_ = s.bolt.Set([]byte(keyVote), append(binary.BigEndian.AppendUint64(nil, v), s.voteCand...))\n",
		"cluster/controller", "TestVoteIsWrittenWhole",
	},
	{
		2, "a vote of a torn transaction is not believed", "cluster/votes/store.go",
		"len(sum) != 16 || binary.BigEndian.Uint64(sum) != s.sum ||", "len(sum) != 16 ||",
		"cluster/votes", "TestFlippedBits|TestTornTransaction",
	},
	{
		2, "the newest meta page of the votes is not passed over", "cluster/votes/check.go",
		"	second, err := checkMeta(b[min(first.size, uint64(n)):n], 1)\n	if err != nil {\n		return err\n	}\n",
		"	second, err := checkMeta(b[min(first.size, uint64(n)):n], 1)\n	if err != nil {\n		return nil\n	}\n",
		"cluster/votes", "TestFlippedBits",
	},
	{
		2, "a term does not go back", "cluster/votes/stable.go",
		"	if val < r.highTerm {", "	if false {",
		"cluster/votes", "TestTermDoesNotGoBack",
	},
	{
		3, "founders name the same list", "cluster/bootstrap.go",
		"		if !slices.Equal(v.Founders, list) {", "		if false {",
		"cluster", "TestFoundersAgreeOnTheSameList",
	},
	{
		3, "every founder has answered", "cluster/bootstrap.go",
		"			if v, ok = views[m.Node]; !ok {\n				return \"\", false\n", "			if v, ok = views[m.Node]; !ok {\n				continue\n",
		"cluster", "TestFoundersAgreeOnTheSameList",
	},
	{
		3, "nobody founds who sees a cluster", "cluster/bootstrap.go",
		"		if m.ClusterID != \"\" {\n			return nil, false", "		if false {\n			return nil, false",
		"cluster", "TestFoundersAgreeOnTheSameList",
	},
	{
		3, "one that joins is no founder", "cluster/bootstrap.go",
		"		if m.Expect == f.expect {", "		if true {",
		"cluster", "TestFoundersAgreeOnTheSameList",
	},
	{
		3, "the handshake compares clusters", "cluster/transport/handshake.go",
		"	if ours != \"\" && theirs != \"\" && ours != theirs {", "	if false {",
		"cluster/transport", "TestHandshakeRefusals",
	},
	{
		3, "a disk follows the metadata of its own cluster alone", "cluster/wiring.go",
		"	switch id := n.clusterID(); id {\n	case img.ClusterID:", "	switch id := n.clusterID(); id {\n	case id:",
		"cluster", "TestRule3MetadataOfAnotherCluster",
	},
	{
		3, "the cluster's ID is set once", "cluster/meta/apply.go",
		"	case e.img.ClusterID != \"\" && e.img.ClusterID != c.ClusterID:", "	case false:",
		"cluster/meta", "TestClusterIDIsSetOnce",
	},

	// What enters Raft.
	{
		4, "the commit index ends with the request", "cluster/transport/guard.go",
		"	q.LeaderCommitIndex = min(q.LeaderCommitIndex, q.PrevLogEntry+uint64(len(q.Entries)))\n", "",
		"cluster/transport", "TestRule4CommitIndexIsClamped|TestInboxConformance",
	},
	{
		5, "what lies below the log start is cut off", "cluster/transport/guard.go",
		"	if q.PrevLogEntry >= floor {\n		return\n	}\n", "	if true {\n		return\n	}\n",
		"cluster/transport", "TestRule5BelowTheLogStart|TestInboxConformance",
	},
	{
		5, "a request all below the log start is handed on bare", "cluster/transport/guard.go",
		"		q.Entries, q.PrevLogEntry, q.PrevLogTerm, q.LeaderCommitIndex = nil, 0, 0, 0\n", "",
		"cluster/transport", "TestRule5BelowTheLogStart",
	},
	{
		6, "a log that has the snapshot's entry is left alone", "cluster/transport/guard.go",
		"	case known && have == term:\n", "	case known && have == term && false:\n",
		"cluster/transport", "TestRule6Snapshot",
	},
	{
		6, "a log that has passed the snapshot is left alone", "cluster/transport/guard.go",
		"	case index <= g.Committed() || (first > 0 && index <= first-1):\n", "	case first > last:\n",
		"cluster/transport", "TestRule6Snapshot",
	},
	{
		6, "a log that differs is wiped, not replaced", "cluster/transport/guard.go",
		"	case known:\n		return snapshotWipe\n", "	case known:\n		return snapshotInstall\n",
		"cluster/transport", "TestRule6Snapshot",
	},
	{
		6, "nothing is wiped for a deposed leader", "cluster/transport/snapshot.go",
		"	if err != nil || !resp.Success {\n		r := raft.RPCResponse{Error: err}", "	if err != nil {\n		r := raft.RPCResponse{Error: err}",
		"cluster/transport", "TestRule6Snapshot",
	},
	{
		6, "committed entries are never wiped", "partition/wipe.go",
		"have != term && index > p.Committed() && index", "have != term && index",
		"partition", "TestRule6CommittedEntriesStay",
	},
	{
		6, "a wiped replica does not vote before it holds again what it acknowledged", "partition/group.go",
		"	return p.failed() == nil && p.log.LastIndex() >= floor", "	return p.failed() == nil && floor <= 1<<63",
		"partition", "TestRule6NoVoteBelowTheFloor",
	},
	{
		6, "the decision to wipe is durable first", "partition/wipe.go",
		"	if err := vfs.WriteFile(p.o.FS, p.o.Dir, filepath.Join(p.o.Dir, wipeName), b); err != nil {", "	if err := error(nil); err != nil {",
		"partition", "TestRule6CrashDuringWipeAndInstall",
	},
	{
		6, "an install is finished at the next start", "partition/open.go",
		"	return p.finishInstall()\n", "	return nil\n",
		"partition", "TestRule6CrashDuringWipeAndInstall",
	},
	{
		6, "a wiped controller member does not vote before it has caught up", "cluster/controller/wipe.go",
		"	if c.failed() != nil || r == nil || r.AppliedIndex() < floor {", "	if r == nil {",
		"cluster/controller", "TestWipe",
	},
	{
		7, "a term that cannot be saved stops the group, not the process", "partition/group.go",
		"	if string(key) == keyCurrentTerm {\n		return nil\n	}\n	return err\n", "	return err\n",
		"partition", "TestRule7VotesFailureDoesNotPanic",
	},
	{
		7, "a store that fails after a truncation restarts the group", "partition/logstore.go",
		"	case p.truncated:\n", "	case false:\n",
		"partition", "TestRule7StoreFailureAfterTruncation",
	},
	{
		7, "a damaged log stops its group", "partition/logstore.go",
		"	case errors.Is(err, segment.ErrFailed) || errors.Is(err, segment.ErrCorrupt):\n		p.failStop(err)\n", "	case errors.Is(err, segment.ErrFailed) || errors.Is(err, segment.ErrCorrupt):\n",
		"partition", "TestRule7StoreFailureStopsTheGroup",
	},
	{
		7, "a term that was set back restarts the group", "partition/group.go",
		"		v.p.requestRestart(restartRequest{why: \"the term was about to be set back\"})\n", "",
		"partition", "TestRule7TermDoesNotGoBack",
	},
	{
		7, "a configuration that cannot be read does not reach Raft", "cluster/transport/guard.go",
		"		if l.Type == raft.LogConfiguration {", "		if false {",
		"cluster/transport", "TestBadEntriesAreRefused",
	},
	{
		7, "a full disk leaves the log as it was before the call", "segment/append.go",
		"	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {", "	if !errors.Is(err, syscall.ENOSPC) || true {",
		"segment", "TestDiskFull",
	},
	{
		7, "the controller's member stops when a store fails after a truncation", "cluster/controller/store.go",
		"		if s.truncated {", "		if false {",
		"cluster/controller", "TestRule7StoreFailuresStopTheMember",
	},

	// The log on disk.
	{
		8, "an append is synced before it counts", "segment/append.go",
		"		if cfg.Fsync {\n			if err := l.o.Sync.Sync(", "		if false {\n			if err := l.o.Sync.Sync(",
		"segment", "TestCrashAtEverySync",
	},
	{
		8, "what a start found is synced before it counts", "segment/tail.go",
		"	if err := l.o.Sync.Sync(Append{File: t.f, Len: int(s.size)}); err != nil {", "	if err := error(nil); err != nil {",
		"segment", "TestKillThenPowerLoss|TestRule8KillAtEveryOperation",
	},
	{
		8, "the names that a start found are synced", "segment/recover.go",
		"		if err := l.o.FS.SyncDir(l.o.Dir); err != nil {", "		if err := error(nil); err != nil {",
		"segment", "TestRule8KillAtEveryOperation",
	},
	{
		8, "the name of a new segment is synced", "segment/append.go",
		"	if err := l.o.FS.SyncDir(l.o.Dir); err != nil {\n		f.Close()", "	if err := error(nil); err != nil {\n		f.Close()",
		"segment", "TestCrashAtEverySync",
	},
	{
		8, "after a failed sync nothing is appended", "segment/append.go",
		"				return l.fail(\"sync\", err)\n", "				_ = err\n",
		"segment", "TestFailedSync|TestEveryErrorOnce",
	},
	{
		8, "all who wait for a failed sync hear of it", "segment/syncer.go",
		"	if fs.err != nil {\n		s.mu.Unlock()\n		return fs.err\n	}\n", "",
		"segment", "TestRule8WaitersOfAFailedSync",
	},
	{
		8, "pages of a failed sync are written again", "segment/tail.go",
		"	if l.distrusted {\n		if err := t.rewrite(", "	if false {\n		if err := t.rewrite(",
		"segment", "TestRule8FailedSyncThenKill",
	},
	{
		8, "after a failed write no vote is stored", "cluster/votes/store.go",
		"	s.err = err\n	s.mu.Unlock()\n	s.o.Logger.Error(", "	s.mu.Unlock()\n	s.o.Logger.Error(",
		"cluster/votes", "TestFailedWrite",
	},
	{
		9, "a truncation cuts the file", "segment/truncate.go",
		"	if err := l.file.Truncate(c.pos); err != nil {\n		return l.fail(\"truncate\", err)\n	}\n", "",
		"segment", "TestCrashAtEverySync",
	},
	{
		9, "a truncation is synced before it returns", "segment/truncate.go",
		"	if err := l.o.Sync.Sync(Append{File: l.file, Pos: c.pos}); err != nil {", "	if err := error(nil); err != nil {",
		"segment", "TestCrashAtEverySync",
	},
	{
		9, "the index is cut durably before the log", "segment/index.go",
		"	if err := w.f.Sync(); err != nil {\n		return err\n	}\n	w.tail = false\n", "	w.tail = false\n",
		"segment", "TestCrashAtEverySync",
	},
	{
		9, "segments behind a truncation are removed durably", "segment/truncate.go",
		"	return l.o.FS.SyncDir(l.o.Dir)\n}\n\n// AdvanceStart", "	return nil\n}\n\n// AdvanceStart",
		"segment", "TestCrashAtEverySync",
	},
	{
		11, "a batch's base offset is the next one", "segment/frame.go",
		"	if e.BaseOffset != prev.NextOffset {", "	if false {",
		"segment", "TestFlippedBits|TestRule11Follows",
	},
	{
		11, "a batch's epoch is the term in force", "segment/frame.go",
		"	if e.Term < prev.Term || e.Type == Batch && e.Term != prev.Term && prev.Term != 0 {", "	if e.Term < prev.Term {",
		"segment", "TestFlippedBits|TestRule11Follows",
	},
	{
		11, "reserved frames have a CRC", "segment/frame.go",
		"	return reservedCRC(frame) == binary.BigEndian.Uint32(frame[17:])", "	return true",
		"segment", "TestFlippedBits",
	},
	{
		11, "a leader's batch has the offset and the epoch that are due", "segment/append.go",
		"			if e.Stamped && (", "			if false && (",
		"segment", "TestStamped",
	},
	{
		11, "entries of a request follow one another", "cluster/transport/guard.go",
		"		if l.Index != p.prevIndex+1+uint64(i) {", "		if false {",
		"cluster/transport", "TestBadEntriesAreRefused",
	},
	{
		11, "terms in a request do not fall", "cluster/transport/guard.go",
		"		if l.Term < term || l.Term > p.term {", "		if false {",
		"cluster/transport", "TestBadEntriesAreRefused",
	},
	{
		12, "a log that ends below what was durable is damaged", "partition/open.go",
		"	if lost != \"\" && (kept.durable || !p.identity", "	if lost != \"\" && false && (kept.durable || !p.identity",
		"partition", "TestRule12LossIsNotClampedAway",
	},
	{
		12, "what was promised without fsync proves no damage", "partition/loop.go",
		"durable: p.log.Durable(index),", "durable: p.log.Durable(index) || true,",
		"partition", "TestRule12SwitchToFsyncIsNoDamage",
	},
	{
		12, "a bad frame below what was durable is damage, and nothing is cut", "segment/tail.go",
		"	if l.o.DurableIndex >= max(c.index, 1) {", "	if false {",
		"segment", "TestRule12ShorterThanDurable",
	},
	{
		12, "a log shorter than what was durable is damage", "segment/recover.go",
		"	if last := l.lastIndex(); l.o.DurableIndex > last {", "	if last := l.lastIndex(); last > l.o.DurableIndex+1<<62 {",
		"segment", "TestRule12ShorterThanDurable",
	},
	{
		12, "a bad frame with a sound one behind it is damage", "segment/tail.go",
		"	if at >= 0 {\n		return fmt.Errorf(\"%w: %w, and a sound frame", "	if false {\n		return fmt.Errorf(\"%w: %w, and a sound frame",
		"segment", "TestFlippedBits",
	},
	{
		12, "Raft starts from what was committed, not from the log's end", "partition/snapshots.go",
		"		index := p.applied.Load()\n", "		index := p.log.LastIndex()\n",
		"partition", "TestRule12StartFromTheKeptHighWatermark",
	},
	{
		13, "a replica that lost power without sync rests", "partition/recovery.go",
		"	if p.identity.unclean || !rec.Unsynced || rec.Clean || rec.SameBoot || !voted {", "	if rec.Unsynced || !rec.Unsynced {",
		"partition", "TestRule13UncleanReplicaRests",
	},
	{
		13, "a log that was not heard is waited for", "cluster/standing.go",
		"	case len(j.missing) > 0 || j.best.ID == 0:", "	case j.best.ID == 0:",
		"cluster", "TestRule13Judge",
	},
	{
		13, "the highest (last term, last index) is chosen", "cluster/standing.go",
		"(j.best.ID == 0 || b.end().Before(s.end()) ||", "(j.best.ID == 0 || b.LastIndex < s.LastIndex ||",
		"cluster", "TestRule13Judge",
	},
	{
		13, "its term is above all that were seen", "cluster/standing.go",
		"		j.term = max(j.term, s.Term+1)\n", "		j.term = s.Term + 1\n",
		"cluster", "TestRule13Judge",
	},
	{
		13, "where clean voters can elect nothing is chosen", "cluster/standing.go",
		"		if s.clean() && cleanMajority(s.Voters, heard) {", "		if false {",
		"cluster", "TestRule13Judge",
	},
	{
		13, "of two choices of a log one stands", "cluster/meta/apply_recovery.go",
		"	if err := p.checkEpoch(t, max(c.Epoch, 0)); err != nil {", "	if err := error(nil); err != nil {",
		"cluster/meta", "TestRule13Recovery",
	},
	{
		13, "the chosen replica alone ends the recovery", "cluster/meta/apply_recovery.go",
		"p.Recovery.Replica != c.ID || p.Recovery.Term != c.Term {", "false {",
		"cluster/meta", "TestRule13Recovery",
	},
	{
		13, "the others come back as new replicas", "cluster/meta/apply_recovery.go",
		"			next = e.succeed(next, r)\n", "			_ = r\n",
		"cluster/meta", "TestRule13Recovery",
	},
	{
		14, "a full disk is left with hysteresis", "cluster/disk.go",
		"	case int64(free) >= mark+mark/4:", "	case int64(free) >= mark:",
		"cluster", "TestRule14DiskGuard",
	},
	{
		14, "produce is refused below the mark", "cluster/disk.go",
		"	case int64(free) < mark:\n		d.full.Store(true)", "	case int64(free) < mark:\n		d.full.Store(false)",
		"cluster", "TestRule14DiskGuard",
	},
	{
		14, "produce is refused before Raft", "partition/append.go",
		"	if p.o.DiskFull() {", "	if false {",
		"partition", "TestRule14FullDiskRefusesProduce",
	},
	{
		14, "votes have a reserve", "cluster/votes/store.go",
		"	if s.o.ReserveBytes > 0 {", "	if false {",
		"cluster/votes", "TestRule14ReserveIsTaken",
	},

	// Producers.
	{
		15, "the log takes tickets of its own term alone", "partition/ticket.go",
		"	if t.term != logTerm || t.epoch < g.epoch ||", "	if t.epoch < g.epoch ||",
		"partition", "TestRule15GateLetsInABeginning",
	},
	{
		15, "the log takes exactly the next ticket", "partition/ticket.go",
		"	if t.n != g.next {\n		g.void = true\n		return false\n	}\n", "	if t.n != g.next {\n		g.next = t.n\n	}\n",
		"partition", "TestRule15GateLetsInABeginning|TestRule15OutOfTurnIsVoid",
	},
	{
		15, "after a failed store the rest of the epoch is void", "partition/ticket.go",
		"(t.epoch == g.epoch && g.void) {", "false {",
		"partition", "TestRule15FailedStoreVoidsTheEpoch",
	},
	{
		15, "what is refused is stored as void", "partition/logstore.go",
		"	if own && !p.gate.admit(t, l.Term) {\n		k = kindVoid\n	}\n", "	if own {\n		p.gate.admit(t, l.Term)\n	}\n",
		"partition", "TestRule15OutOfTurnIsVoid",
	},
	{
		15, "an entry without a ticket is void", "partition/ticket.go",
		"	return 0, ticket{}, false\n}\n\n// gate", "	return kindBatch, ticket{}, false\n}\n\n// gate",
		"partition", "TestRule15EntriesWithoutTicketAreVoid",
	},
	{
		15, "a dropped append is found by a fence", "partition/loop.go",
		"		p.sendFence()\n		soon(fenceEvery)", "		soon(fenceEvery)\n		p.mu.Lock()\n		p.ready = true\n		p.mu.Unlock()",
		"partition", "TestRule15FenceFindsDroppedAppends",
	},
	{
		15, "leadership is handed over with nothing in flight", "partition/transfer.go",
		"		if n == 0 {\n			break\n		}\n", "		if n >= 0 {\n			break\n		}\n",
		"partition", "TestRule15TransferWaitsForAppends",
	},
	{
		15, "appends wait while leadership is handed over", "partition/append.go",
		"	if p.paused || len(p.inflight) >= maxInflight ||", "	if len(p.inflight) >= maxInflight ||",
		"partition", "TestTransferDrains",
	},
	{
		15, "a duplicate of a batch in flight waits for that batch", "partition/producers.go",
		"		if o.producerEpoch == epoch && o.seq.first == first && o.seq.last == last {", "		if false {",
		"partition", "TestDuplicateInFlight",
	},

	// Leaders and reads.
	{
		16, "a leader announces itself after its barrier", "partition/loop.go",
		"	serve := p.term != 0 && p.ready\n", "	serve := p.term != 0\n",
		"partition", "TestRule16NotServingBeforeTheBarrier",
	},
	{
		16, "OFFSET_OUT_OF_RANGE follows a VerifyLeader", "partition/read.go",
		"		err := p.VerifyLeader(ctx)\n		cancel()\n", "		cancel()\n		_ = ctx\n",
		"partition", "TestRule16StaleLeaderIsSilent",
	},
	{
		16, "a final word to a producer follows a VerifyLeader", "partition/append.go",
		"	if stale := p.VerifyLeader(ctx); stale != nil {", "	if stale := ctx.Err(); stale != nil {",
		"partition", "TestRule16StaleLeaderJudgesNoProducer",
	},
	{
		16, "the end of the log by time follows a VerifyLeader", "partition/offsets.go",
		"	return -1, -1, -1, p.VerifyLeader(ctx)\n}\n\n// OffsetForMaxTime", "	return -1, -1, -1, nil\n}\n\n// OffsetForMaxTime",
		"partition", "TestRule16StaleLeaderIsSilent",
	},
	{
		16, "a round of VerifyLeader begins after the call", "partition/verify.go",
		"			v.next = r\n", "			r = v.running\n",
		"partition", "TestRule16RoundsBeginAfterTheCall",
	},
	{
		16, "the client's leader epoch is checked", "partition/read.go",
		"	case asked < 0 || asked == epoch:", "	case true:",
		"partition", "TestReadAndEpochs",
	},
	{
		17, "TimeoutNow needs a majority that lost the leader", "cluster/round.go",
		"	if lost < len(voters)/2+1 {", "	if lost < 1 {",
		"cluster", "TestDecide|TestAtMostOneStands",
	},
	{
		17, "the best log wins", "cluster/round.go",
		"		if b := answers[best]; better(a, b) || !better(b, a) && before(v, best, voters) {", "		if before(v, best, voters) {",
		"cluster", "TestDecide|TestAtMostOneStands",
	},
	{
		17, "ties are broken in one order", "cluster/round.go",
		"better(a, b) || !better(b, a) && before(v, best, voters) {", "better(a, b) {",
		"cluster", "TestDecide|TestAtMostOneStands",
	},
	{
		17, "a leader of the term is respected", "cluster/round.go",
		"		if a.state == stateLeader && a.term >= me.term {", "		if false {",
		"cluster", "TestDecide",
	},
	{
		17, "a candidate is given its time", "cluster/round.go",
		"	if grace && (candidate ||", "	if false && (candidate ||",
		"cluster", "TestDecide",
	},
	{
		17, "a learner does not stand", "cluster/round.go",
		"	if !me.voter {", "	if false {",
		"cluster", "TestDecide",
	},
	{
		17, "a promise to wait is kept", "cluster/round.go",
		"	case me.deferred:", "	case false:",
		"cluster", "TestDecide",
	},
	{
		17, "a replica without a configuration does not stand", "cluster/transport/inbox.go",
		"	if !e.group.HasConfiguration() {\n		return fmt.Errorf(\"%w: %s\", ErrNoConfiguration, e.addr)", "	if false {\n		return fmt.Errorf(\"%w: %s\", ErrNoConfiguration, e.addr)",
		"cluster/transport", "TestRule17EmptyReplicaDoesNotStand",
	},
	{
		17, "Raft keeps its pre-vote", "partition/group.go",
		"	if pre, ok := t.(raft.WithPreVote); ok {", "	if pre, ok := t.(raft.WithPreVote); ok && false {",
		"partition", "TestRule17PreVoteIsKept",
	},
	{
		18, "the lease is at most half the heartbeat timeout", "cluster/timing.go",
		"	def(&t.Lease, 5*time.Second)", "	def(&t.Lease, 6*time.Second)",
		"cluster", "TestRule18TimingsFit",
	},
	{
		18, "a second broker waits longer than a round takes", "cluster/timing.go",
		"	def(&t.DeferFor, 150*time.Millisecond)", "	def(&t.DeferFor, 20*time.Millisecond)",
		"cluster", "TestRule18TimingsFit",
	},

	// Retention, compaction, checkpoints.
	{
		19, "segments go after the checkpoint below their successor", "partition/loop.go",
		"f > 0 && p.durable[f-1] {", "f > 0 {",
		"partition", "TestRule19LogStartWaitsForTheCheckpoint",
	},
	{
		19, "Raft's compaction does not move the log start", "partition/logstore.go",
		"	if lo > hi || lo > last || hi < last {", "	if lo > hi || lo > last {",
		"partition", "TestRule19CompactionIsRetentionsBusiness",
	},
	{
		19, "the log start does not go back", "partition/command.go",
		"!d.failed && offset > p.logStart.Load() {", "!d.failed {",
		"partition", "TestRule19LogStartDoesNotGoBack",
	},
	{
		19, "the log start moves by a replicated command", "partition/offsets.go",
		"	_, err := p.propose(ctx, encodeLogStart(to))\n", "	err := ctx.Err()\n	p.logStart.Store(to)\n",
		"partition", "TestRetention",
	},
	{
		19, "a step of retention is bounded", "partition/offsets.go",
		"i < len(segments)-1 && i < retainStep; i++ {", "i < len(segments)-1; i++ {",
		"partition", "TestRule19RetentionStepIsBounded",
	},
	{
		19, "nothing goes for its age by a clock that is far from the others'", "partition/offsets.go",
		"		tooOld := byTime && newest < oldest\n", "		tooOld := (byTime || c.RetentionTime >= 0) && newest < oldest\n",
		"simulation", "TestRule19JumpedClockDeletesNothing",
	},
	{
		19, "a clock is trusted by a majority", "cluster/clock.go",
		"2*agree <= n {", "agree < 1 {",
		"cluster", "TestRule19ClockOfAMajority",
	},
	{
		21, "Raft's own entries take no offset", "segment/publish.go",
		"			f.Payload = e.Data\n			f.Size", "			f.Payload = e.Data\n			f.NextOffset++\n			f.Size",
		"segment", "TestRule21OwnEntriesTakeNoOffset",
	},
	{
		21, "a term fits a leader epoch", "segment/append.go",
		"e.Term < term || e.Term > math.MaxInt32:", "e.Term < term:",
		"segment", "TestRule21TermsFitAnEpoch",
	},
	{
		21, "announcements are of a topic's ID", "cluster/leaders.go",
		"	s := t.shard(k)\n	s.mu.RLock()\n	l, ok := s.m[k]\n", "	s := t.shard(k)\n	s.mu.RLock()\n	l, ok := s.m[k]\n	for o, x := range s.m {\n		if !ok && o.part == k.part {\n			l, ok = x, true\n		}\n	}\n",
		"cluster", "TestRule21LeadersAreOfATopicID",
	},
	{
		21, "a broker that joins pulls who leads", "cluster/announce.go",
		"	for shard := uint64(0); shard < leaderShards; {\n", "	for shard := uint64(leaderShards); shard < leaderShards; {\n",
		"cluster", "TestRule21LeadersArePulled",
	},
}
