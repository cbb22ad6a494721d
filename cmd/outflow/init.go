package main

import (
	"github.com/spf13/cobra"
)

func newInit() *cobra.Command { return &cobra.Command{Use: "init"} }
func newDemo() *cobra.Command { return &cobra.Command{Use: "demo"} }
func newBench() *cobra.Command { return &cobra.Command{Use: "bench"} }
