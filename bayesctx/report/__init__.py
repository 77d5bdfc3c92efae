"""Results as one HTML file for people."""

from .page import check_report_name as check_report_name, write_report as write_report
