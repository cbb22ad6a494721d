// Package failpoint names the points of the program at which a harness kills or fails the process. The build tag failpoint turns the points
// on; without the tag [Hit] and [Fail] are empty, the compiler inlines the calls away, and the program holds neither names nor actions
// (TestProgramHoldsNoFailpoints).
//
//	go build -tags failpoint -o outflow-failpoint ./cmd/outflow
//	OUTFLOW_FAILPOINTS=list outflow-failpoint
//	OUTFLOW_FAILPOINTS='sink/before-commit=kill@3,replication/received=error@2,sink/commit-sent=sleep:500ms' outflow-failpoint run ...
//
// OUTFLOW_FAILPOINTS is "list", which prints the points and ends the process with exit code 0, or a list of POINT=ACTION, separated by commas:
//
//	kill       the process gets SIGKILL
//	stop       the process gets SIGSTOP; the action ends when somebody sends SIGCONT
//	panic      the goroutine panics
//	error      the point fails with an [*Error]; only points with "error" in the list take the action
//	sleep:500ms  the goroutine sleeps
//
// Behind the action @3 means the third hit only, and @3+ the third hit and all later hits; without either every hit counts. A hit is counted
// per process, over all destinations. A point or an action without a meaning ends the process with exit code 2, before the process does
// anything. A program built without the tag refuses the variable, as the program refuses every unknown OUTFLOW_ variable.
//
// OUTFLOW_FAILPOINTS_HITS names a file, to which the process appends the name of each point at the first hit, and a line POINT=ACTION before
// an action. The file tells a harness which points a run has reached. Both variables are removed from the environment at the start.
package failpoint
